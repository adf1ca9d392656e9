// Transformers.js on ONNX Runtime for Node, greedy: the protocol of docs/adding-a-peer.md.
//
//     node transformers_js.mjs HOME --model FOLDER --threads N [--variant V] [--context N]
//     node transformers_js.mjs --version HOME
import { createRequire } from "node:module";
import { lstatSync, readFileSync, readdirSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const NAME = "@huggingface/transformers";
const argv = process.argv.slice(2);
const option = (name) => argv[argv.indexOf(name) + 1];
const home = argv[0] === "--version" ? argv[1] : argv[0];
const packageFile = path.join(home, "node_modules", NAME, "package.json");
const version = `${NAME} ${JSON.parse(readFileSync(packageFile, "utf8")).version}`;
if (argv[0] === "--version") {
  console.log(version);
  process.exit(0);
}

const say = (document) => process.stdout.write(JSON.stringify(document) + "\n");

function bytes(folder) {
  let total = 0;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const file = path.join(folder, entry.name);
    total += entry.isDirectory() ? bytes(file) : lstatSync(file).size;
  }
  return total;
}

// Whatever a library prints must not be taken for an answer.
console.log = console.info = console.warn = console.error;
const resolved = createRequire(packageFile).resolve(NAME);
const { AutoModelForCausalLM, BaseStreamer, Tensor, env } = await import(pathToFileURL(resolved));
env.allowRemoteModels = false;
const folder = path.resolve(option("--model"));
env.localModelPath = path.dirname(folder);

class Clock extends BaseStreamer {
  times = [];
  put() {
    this.times.push(performance.now());
  }
  end() {}
}

let model;
const int64 = (ids, rows) => new Tensor("int64", BigInt64Array.from(Array(rows).fill(ids).flat().map(BigInt)), [rows, ids.length]);

async function run(prompt, sequences, tokens) {
  const clock = new Clock();
  const input_ids = int64(prompt, sequences);
  const attention_mask = int64(prompt.map(() => 1), sequences);
  const start = performance.now();
  const output = await model.generate({
    input_ids, attention_mask, max_new_tokens: tokens, min_new_tokens: tokens, do_sample: false,
    // The streamer takes one sequence; of a batch only the whole is timed.
    streamer: sequences === 1 ? clock : null,
  });
  // The first call hands over the prompt.
  return { start, end: performance.now(), times: clock.times.slice(1), output };
}

async function answer(request) {
  if (request.generate) {
    const { prompt, tokens } = request.generate;
    const { start, times, output } = await run(prompt, 1, tokens);
    const made = Array.from(output.data.slice(prompt.length), Number);
    return { first_ms: times[0] - start, decode_ms: times.at(-1) - times[0], tokens: made };
  }
  throw new Error("no such request");
}

try {
  model = await AutoModelForCausalLM.from_pretrained(path.basename(folder), {
    dtype: "fp32", device: "cpu", use_external_data_format: true, local_files_only: true,
    session_options: { intraOpNumThreads: Number(option("--threads")), interOpNumThreads: 1 },
  });
  const installed_bytes = bytes(path.join(home, "node_modules"));
  say({ ready: { version, form: "the file's weights dequantized to f32", installed_bytes, can: ["generate"] } });
} catch (error) {
  say({ error: String(error).split("\n")[0] });
  process.exit(1);
}
for await (const line of createInterface({ input: process.stdin })) {
  try {
    say(await answer(JSON.parse(line)));
  } catch (error) {
    say({ error: String(error).split("\n")[0] });
  }
}
