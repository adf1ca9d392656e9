//! Checkpoints: everything that the rest of a run depends on, in one file that is replaced whole. It is a GGUF file of
//! the model as it is, with the optimizer's means beside the weights, so that it also runs.
//!
//! Random numbers and the place in the data are functions of the seed and the step (`rng.rs`), so the step is their state.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use smallmind_formats::{FormatError, Gguf};

use crate::adamw::Moments;
use crate::config::TrainConfig;
use crate::data::Vocabulary;
use crate::error::{Result, TrainError};
use crate::export::{self, CONFIG_KEY, DATA_KEY};
use crate::model::TrainModel;

/// What the number of steps done is called in a file.
pub(crate) const STEP_KEY: &str = "smallmind.train.step";
const HISTORY_KEY: &str = "smallmind.train.history";

/// What was measured at a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    /// Steps done.
    pub(crate) step: u64,
    pub(crate) loss: f32,
    pub(crate) lr: f32,
    pub(crate) valid: Option<f32>,
}

/// The part of a run's state that is no weight.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    /// Steps done.
    pub(crate) step: u64,
    pub(crate) moments: Vec<Moments>,
    pub(crate) history: Vec<Point>,
}

/// Where the checkpoint of a run that makes `out` is.
pub fn checkpoint_path(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".checkpoint");
    out.with_file_name(name)
}

/// Writes a checkpoint.
pub(crate) fn save(
    path: &Path,
    model: &TrainModel,
    vocabulary: &Vocabulary,
    config: &TrainConfig,
    data: &str,
    state: &State,
) -> Result<()> {
    let mut w = export::describe(model, vocabulary, config);
    w.set_str(DATA_KEY, data).set_u32(STEP_KEY, u32::try_from(state.step).unwrap_or(u32::MAX));
    if !state.history.is_empty() {
        let numbers = state
            .history
            .iter()
            .flat_map(|p| [f32::from_bits(p.step as u32), p.loss, p.lr, p.valid.unwrap_or(f32::NAN)]);
        let bits: Vec<i32> = numbers.map(|v| v.to_bits().cast_signed()).collect();
        w.set_i32s(HISTORY_KEY, &bits);
    }
    for (p, moments) in model.params.iter().zip(&state.moments).filter(|(p, _)| p.trained()) {
        export::add(&mut w, &format!("adam_m.{}", p.name), p, &moments.m);
        export::add(&mut w, &format!("adam_v.{}", p.name), p, &moments.v);
    }
    Ok(w.write_file(path)?)
}

/// Reads a checkpoint of the same run into a new model; gives back its state.
///
/// # Errors
/// Where it is damaged, or of other settings or data.
pub(crate) fn restore(
    gguf: &Gguf,
    model: &mut TrainModel,
    config: &TrainConfig,
    data: &str,
) -> Result<State> {
    let path = gguf.path();
    let meta = gguf.metadata();
    let stored = meta.require_str(CONFIG_KEY)?;
    if let Some(why) = difference(stored, &config.to_json()) {
        return Err(other_run(path, &why));
    }
    if meta.require_str(DATA_KEY)? != data {
        return Err(other_run(path, "it was begun with other data"));
    }
    let mut state = State { step: u64::from(meta.require_u32(STEP_KEY)?), ..State::default() };
    let bits = meta.i32s(HISTORY_KEY)?.unwrap_or_default();
    for p in bits.as_chunks::<4>().0 {
        let [step, loss, lr, valid] = p.map(i32::cast_unsigned);
        let valid = Some(f32::from_bits(valid)).filter(|v| !v.is_nan());
        let (loss, lr) = (f32::from_bits(loss), f32::from_bits(lr));
        state.history.push(Point { step: u64::from(step), loss, lr, valid });
    }
    state.moments = Moments::of(&model.params);
    for (p, moments) in model.params.iter_mut().zip(&mut state.moments) {
        read(gguf, &p.name, &mut p.data)?;
        if p.trained() {
            read(gguf, &format!("adam_m.{}", p.name), &mut moments.m)?;
            read(gguf, &format!("adam_v.{}", p.name), &mut moments.v)?;
        }
    }
    Ok(state)
}

fn read(gguf: &Gguf, name: &str, out: &mut [f32]) -> Result<()> {
    let found = gguf.tensor(name).map(|t| gguf.data(t)).filter(|bytes| bytes.len() == 4 * out.len());
    let Some(bytes) = found else {
        let why = "is missing or of another size: the checkpoint is of another run";
        return Err(FormatError::tensor(gguf.path(), name, why).into());
    };
    for (v, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *v = f32::from_le_bytes(*b);
    }
    Ok(())
}

fn other_run(path: &Path, why: &str) -> TrainError {
    let why = format!("is the checkpoint of another run: {why}; delete it, or give what it was begun with");
    TrainError::Checkpoint { path: path.to_owned(), why }
}

/// The first setting that differs.
fn difference(stored: &str, now: &str) -> Option<String> {
    if stored == now {
        return None;
    }
    let parse = |text: &str| serde_json::from_str::<Json>(text).unwrap_or(Json::Null);
    let (stored, now) = (parse(stored), parse(now));
    let name = now.as_object().and_then(|o| o.keys().find(|k| stored.get(k.as_str()) != now.get(k.as_str())));
    let name = name.map_or("a setting", String::as_str);
    let show = |v: &Json| v.get(name).map_or("nothing".to_owned(), Json::to_string);
    Some(format!("its {name} is {}, and now it is {}", show(&stored), show(&now)))
}
