//! Chat templates for model files that carry none, by family. Short forms: system, user and assistant turns, no tools.

const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] \
     + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

const LLAMA2: &str = "{% set ns = namespace(system='') %}{% for message in messages %}\
     {% if message['role'] == 'system' %}{% set ns.system = '<<SYS>>\\n' + message['content'] + '\\n<</SYS>>\\n\\n' %}\
     {% elif message['role'] == 'user' %}{{ bos_token + '[INST] ' + ns.system + message['content'] + ' [/INST]' }}\
     {% set ns.system = '' %}{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}";

const LLAMA3: &str = "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] \
     + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}\
     {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

const GEMMA: &str = "{{ bos_token }}{% set ns = namespace(system='') %}{% for message in messages %}\
     {% if message['role'] == 'system' %}{% set ns.system = message['content'] | trim + '\\n\\n' %}{% else %}\
     {{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' + ns.system \
     + message['content'] | trim + '<end_of_turn>\\n' }}{% set ns.system = '' %}{% endif %}{% endfor %}\
     {% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}";

const MISTRAL: &str = "{{ bos_token }}{% set ns = namespace(system='') %}{% for message in messages %}\
     {% if message['role'] == 'system' %}{% set ns.system = message['content'] + '\\n\\n' %}\
     {% elif message['role'] == 'user' %}{{ '[INST] ' + ns.system + message['content'] + ' [/INST]' }}\
     {% set ns.system = '' %}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}";

const PHI3: &str = "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}\
     {% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}";

/// The template of a family: an architecture's name in GGUF (`qwen2`, `gemma3`) or a style's (`chatml`, `llama2`,
/// `llama3`). `llama` alone tells nothing about the style and has none. For files without a template only.
pub fn builtin_template(family: &str) -> Option<&'static str> {
    Some(match family {
        "chatml" | "qwen" | "qwen2" | "qwen2moe" | "qwen3" | "qwen3moe" | "smollm3" => CHATML,
        "llama2" => LLAMA2,
        "llama3" => LLAMA3,
        "gemma" | "gemma2" | "gemma3" => GEMMA,
        "mistral" | "mistral3" => MISTRAL,
        "phi3" => PHI3,
        _ => return None,
    })
}
