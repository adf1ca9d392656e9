//! Forms of a model that peers load which cannot read its file: made once by the peer's own tools, kept by the file's
//! hash; and the weights of a preset, written by us.

use std::path::{Path, PathBuf};

use serde_json::json;
use smallmind::preset::Preset;
use smallmind::{DType, LoadOptions, Model, Session, SessionOptions};

use super::process::{self, Fault, Patience};
use super::recipe::{Book, Fill};
use crate::results::write_whole;
use crate::{Error, Result};

const PRESET_SEED: u64 = 1;

/// Where forms of one model are kept.
#[derive(Clone, Debug)]
pub(super) struct Forms<'a> {
    pub(super) book: &'a Book,
    pub(super) gguf: PathBuf,
    /// Named after the file's hash.
    pub(super) folder: PathBuf,
}

impl Forms<'_> {
    /// The form, made where it is not there yet: its path. `fill` knows the home of whose tools make it.
    pub(super) fn make(
        &self,
        name: &str,
        fill: &Fill,
        patience: Patience<'_>,
        say: &mut dyn FnMut(&str),
    ) -> std::result::Result<PathBuf, Fault> {
        let failed = |error: Error| Fault::Failed(error.to_string());
        let io = |error: std::io::Error| Fault::Failed(format!("{}: {error}", self.folder.display()));
        let form =
            self.book.forms.get(name).ok_or_else(|| Fault::Failed(format!("there is no form `{name}`")))?;
        let path = self.folder.join(name);
        if path.exists() {
            return Ok(path);
        }
        let from = match &form.from {
            Some(from) => self.make(from, fill, patience, say)?,
            None => self.gguf.clone(),
        };
        std::fs::create_dir_all(&self.folder).map_err(io)?;
        // Aside first: a form is there whole or not at all.
        let aside = self.folder.join(format!(".{name}.{}.part", std::process::id()));
        let fill = fill.with("from", from.display()).with("out", aside.display());
        say(&format!("making {name} (kept at {})", path.display()));
        let made = process::run(&fill.command(&form.make).map_err(failed)?, 1, patience);
        let made = made.and_then(|_| std::fs::rename(&aside, &path).map_err(io));
        if made.is_err() {
            // Nothing of it is of use; that some of it stays is no further harm.
            let _ = std::fs::remove_dir_all(&aside);
        }
        made.map(|()| path)
    }
}

/// Writes a preset's F32 weights, a prompt and our logits of its last token: the path of the description.
///
/// # Errors
/// Where the folder cannot be written.
pub(super) fn preset_weights(preset: &Preset, prompt: &[u32], folder: &Path) -> Result<PathBuf> {
    let gguf = preset.build(DType::F32, PRESET_SEED)?;
    let (mut values, mut tensors) = (Vec::new(), Vec::new());
    for tensor in gguf.tensors() {
        let shape: Vec<usize> = tensor.shape.iter().rev().copied().collect();
        tensors.push(json!({"name": tensor.name, "shape": shape, "offset": values.len()}));
        values.extend_from_slice(gguf.data(tensor));
    }
    let model = Model::from_gguf(gguf, &LoadOptions { threads: Some(1), precise: true })?;
    let logits = Session::new(&model, &SessionOptions::default())?.prefill(prompt)?.to_vec();
    let bin = format!("{}.bin", preset.name);
    let about = json!({
        "layers": preset.layers, "heads": preset.heads, "hidden": preset.hidden, "context": preset.context,
        "values": bin, "tensors": tensors, "prompt": prompt, "logits": logits,
    });
    let (path, bin) = (folder.join(format!("{}.json", preset.name)), folder.join(bin));
    std::fs::write(&bin, values).map_err(|cause| Error::System { what: bin.display().to_string(), cause })?;
    write_whole(&path, &about.to_string())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::recipe::Form;
    use smallmind::CancelToken;
    use std::time::Duration;

    #[test]
    fn the_weights_written_for_the_peers_are_all_of_the_models() {
        let folder = tempfile::tempdir().unwrap();
        let prompt: Vec<u32> = (65..75).collect();
        let path = preset_weights(Preset::find("small").unwrap(), &prompt, folder.path()).unwrap();
        assert_eq!(std::fs::metadata(path.with_extension("bin")).unwrap().len(), 4 * 470_528);
        let about: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(about["tensors"].as_array().unwrap().len(), 29);
        assert_eq!(about["tensors"][0]["shape"], json!([256, 128]));
        assert_eq!(about["logits"].as_array().unwrap().len(), 256);
    }

    #[test]
    fn a_form_is_made_once_out_of_another_and_only_whole() {
        let folder = tempfile::tempdir().unwrap();
        let form = |from: Option<&str>, script: &str| Form {
            from: from.map(str::to_owned),
            make: ["sh", "-c", script, "x", "{from}", "{out}"].map(str::to_owned).to_vec(),
        };
        let forms = [
            ("one", form(None, "mkdir $2; cp $1 $2/copy")),
            ("two", form(Some("one"), "mkdir $2; cat $1/copy $1/copy > $2/twice")),
            ("bad", form(None, "mkdir $2; echo broken >&2; exit 1")),
        ];
        let forms = forms.map(|(name, form)| (name.to_owned(), form)).into();
        let book = Book { forms, peers: Vec::new() };
        let gguf = folder.path().join("m.gguf");
        std::fs::write(&gguf, "x").unwrap();
        let forms = Forms { book: &book, gguf, folder: folder.path().join("forms") };
        let cancel = CancelToken::default();
        let patience = Patience { timeout: Duration::from_secs(60), cancel: &cancel };
        let mut said = Vec::new();
        let mut make =
            |name: &str| forms.make(name, &Fill::default(), patience, &mut |s| said.push(s.to_owned()));
        let path = make("two").unwrap();
        assert_eq!(std::fs::read_to_string(path.join("twice")).unwrap(), "xx");
        assert_eq!(make("two").unwrap(), path);
        assert!(matches!(make("bad"), Err(Fault::Failed(words)) if words.ends_with("broken")));
        assert!(make("none").is_err());
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(!forms.folder.join("bad").exists());
        assert_eq!(std::fs::read_dir(&forms.folder).unwrap().count(), 2);
    }
}
