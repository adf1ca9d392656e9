//! Writing: whole files that are either complete or absent, and GGUF files of given metadata and tensors. May not
//! leave a half-written file under its final name.

mod gguf;
mod smq;
mod whole_file;

pub use gguf::{GgufStream, GgufWriter};
pub use smq::{PartSpec, SmqWriter};
pub use whole_file::WholeFile;
