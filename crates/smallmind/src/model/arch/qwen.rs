//! The Qwen family.

use super::llama::LLAMA;
use super::{Arch, Position};

/// Qwen 2 and 2.5: biases on Q, K and V, which the loader takes wherever a file has them.
pub(super) const QWEN2: Arch =
    Arch { name: "qwen2", position: Position::RopeHalves, chat_family: Some("chatml"), ..LLAMA };

/// Qwen 3: norms on the heads of Q and K.
pub(super) const QWEN3: Arch = Arch { name: "qwen3", qk_norm: true, ..QWEN2 };
