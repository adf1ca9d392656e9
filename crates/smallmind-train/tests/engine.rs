//! What training makes is what the engine runs: logits of trained weights, of checkpoints' files, and of adapters.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops")]

use smallmind::{Gguf, LoadOptions, Model, Session, SessionOptions};
use smallmind_train::{
    Adapter, Compute, LoraConfig, LoraTrainer, NewModel, Precision, Progress, TrainConfig, TrainModel, Watch,
    gguf_of, merge,
};

struct Blind;
impl Watch for Blind {
    fn step(&mut self, _progress: &Progress) -> bool {
        true
    }
}

fn config(arch: &str) -> TrainConfig {
    let kv = if arch == "llama" { 2 } else { 4 };
    TrainConfig::from_json(&format!(
        r#"{{"name": "t", "model": {{"arch": "{arch}", "hidden": 64, "heads": 4, "kv_heads": {kv}, "ffn": 96, "tied": true}}}}"#
    ))
    .unwrap()
}

/// A model with weights large enough to make a difference, and its file.
fn model(arch: &str) -> (TrainModel, Vec<u8>) {
    let config = config(arch);
    let mut model =
        TrainModel::new(config.check().unwrap(), NewModel { tied: true, biases: arch == "gpt2" }, 5).unwrap();
    for (i, p) in model.params.iter_mut().enumerate() {
        p.data.iter_mut().enumerate().for_each(|(j, v)| *v = *v * 6.0 + 0.01 * ((i + j) % 7) as f32);
    }
    let mut w = gguf_of(&model);
    smallmind::preset::bytes_vocabulary(&mut w, 256);
    (model, w.to_bytes().unwrap())
}

/// Logits of every position by the engine, weights and activations in F32.
fn by_the_engine(file: Vec<u8>, ids: &[u32]) -> Vec<f32> {
    let gguf = Gguf::from_bytes("test", file).unwrap();
    let model = Model::from_gguf(gguf, &LoadOptions { threads: Some(2), precise: true }).unwrap();
    let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
    session.score(ids, ids.len()).unwrap().to_vec()
}

#[track_caller]
fn assert_close(what: &str, found: &[f32], want: &[f32]) {
    assert_eq!(found.len(), want.len());
    let scale = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let worst = found.iter().zip(want).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / scale;
    assert!(worst < 1e-4, "{what}: logits differ by {worst}");
}

#[test]
fn trained_weights_give_the_same_logits_through_the_engine() {
    for arch in ["gpt2", "llama"] {
        let (mut model, file) = model(arch);
        let ids: Vec<u32> = (0..50).map(|i| i * 37 % 256).collect();
        let ours = model.logits(&mut Compute::new(2, Precision::F32).unwrap(), &ids, ids.len());
        assert_close(arch, &ours, &by_the_engine(file, &ids));
    }
}

#[test]
fn an_adapter_learns_and_merged_into_the_file_it_gives_the_logits_it_was_trained_to() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("d.jsonl"), dir.path().join("a.safetensors"));
    std::fs::write(&data, "{\"prompt\": \"hi\", \"response\": \"there\"}\n{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b!\"}]}\n").unwrap();
    let (_, mut file) = model("llama");
    // A template, so that there are turns.
    let gguf = Gguf::from_bytes("test", std::mem::take(&mut file)).unwrap();
    let mut w = smallmind_formats::write::GgufWriter::new();
    w.copy_metadata(gguf.metadata()).set_str(
        "tokenizer.chat_template",
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}|{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
    );
    gguf.tensors().iter().for_each(|t| {
        w.add_tensor(&t.name, t.dtype, &t.shape, gguf.data(t));
    });
    let file = w.to_bytes().unwrap();
    let open = || Gguf::from_bytes("test", file.clone()).unwrap();

    let targets = ["attn_q", "attn_k", "attn_output", "ffn_down"].map(str::to_owned).to_vec();
    let config =
        LoraConfig { targets, rank: 4, steps: 40, batch: 2, lr: 0.01, threads: 2, ..LoraConfig::default() };
    let mut trainer = LoraTrainer::new(config, open(), &data, &out).unwrap();
    assert_eq!(trainer.sizes().0, 8);
    let (before, after) = trainer.run(&mut Blind).unwrap().unwrap();
    assert!(after < 0.5 * before, "loss {before} before, {after} after");
    let ids: Vec<u32> = "[user]hi|[assistant]there|".bytes().map(u32::from).collect();
    let want = trainer.logits(&ids);
    let merged = merge(&open(), &Adapter::open(&out).unwrap()).unwrap();
    let found = by_the_engine(merged, &ids);
    assert_close("merged", &found, &want);
    assert!(found.iter().zip(&by_the_engine(file.clone(), &ids)).any(|(a, b)| (a - b).abs() > 0.1));

    // Of another model, or damaged.
    let (_, other) = model("gpt2");
    let error = merge(&Gguf::from_bytes("other", other).unwrap(), &Adapter::open(&out).unwrap()).unwrap_err();
    assert!(error.to_string().contains("no matrix of this model"), "{error}");
    let bytes = std::fs::read(&out).unwrap();
    std::fs::write(&out, &bytes[..bytes.len() - 3]).unwrap();
    assert!(Adapter::open(&out).unwrap_err().to_string().contains("a.safetensors"));
}

#[test]
fn what_training_does_not_know_is_said() {
    let json = r#"{"model": {"arch": "gemma3", "hidden": 64, "heads": 4, "kv_heads": 4}}"#;
    let numbers = TrainConfig::from_json(json).unwrap().check().unwrap();
    let error = TrainModel::new(numbers, NewModel { tied: true, biases: false }, 1).unwrap_err().to_string();
    assert!(error.contains("gemma3") && error.contains("norms"), "{error}");
}
