//! Low-rank adapters (Hu et al. 2021): training them on top of a loaded model, their files, and adding them to weights.

mod adapter;
mod examples;
mod train;

pub use adapter::{Adapter, merge};
pub use train::{LoraConfig, LoraTrainer};
