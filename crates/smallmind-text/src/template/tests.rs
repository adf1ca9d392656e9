//! Templates of real models against hand-derived prompts, and hostile ones against the clock.

use super::*;

fn dialogue(turns: &[(&str, &str)]) -> Vec<Message> {
    turns.iter().map(|(role, content)| Message::new(*role, *content)).collect()
}

fn render(source: &str, turns: &[(&str, &str)], options: RenderOptions) -> Result<String, TextError> {
    ChatTemplate::compile(source, "<s>", "</s>")?.render(&dialogue(turns), options)
}

fn print(source: &str) -> Result<String, TextError> {
    render(source, &[("user", "hi")], RenderOptions::default())
}

/// The template inside SmolLM2-135M-Instruct.
const SMOLLM2: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
     {{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}\
     {% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
     {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// The form of Gemma 3's template, with its blank control and its exceptions.
const GEMMA3: &str = "{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = \"\" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception(\"Conversation roles must alternate user/assistant/user/assistant/...\") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = \"model\" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else \"\") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\n'}}
{%- endif -%}
";

#[test]
fn smollm2_gets_its_default_system_message() {
    let prompt = render(SMOLLM2, &[("user", "Hi {{ x }}")], RenderOptions::default()).unwrap();
    assert_eq!(
        prompt,
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\nHi {{ x }}<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn a_system_message_of_ones_own_replaces_the_default() {
    let turns = [("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c")];
    let options = RenderOptions { add_generation_prompt: false, ..RenderOptions::default() };
    assert_eq!(
        render(SMOLLM2, &turns, options).unwrap(),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na<|im_end|>\n\
         <|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
    );
}

#[test]
fn gemma3_puts_the_system_message_before_the_first_turn() {
    let turns = [("system", "S"), ("user", " a "), ("assistant", "b"), ("user", "c")];
    assert_eq!(
        render(GEMMA3, &turns, RenderOptions::default()).unwrap(),
        "<s><start_of_turn>user\nS\n\na<end_of_turn>\n<start_of_turn>model\nb<end_of_turn>\n\
         <start_of_turn>user\nc<end_of_turn>\n<start_of_turn>model\n"
    );
}

#[test]
fn an_exception_of_the_template_is_its_own_error() {
    let error = render(GEMMA3, &[("assistant", "b")], RenderOptions::default()).unwrap_err();
    assert_eq!(
        error,
        TextError::TemplateRefused(
            "Conversation roles must alternate user/assistant/user/assistant/...".into()
        )
    );
}

#[test]
fn blanks_around_blocks_go_as_transformers_has_it() {
    assert_eq!(print("a\n    {% if true %}\nb\n    {% endif %}\nc\n").unwrap(), "a\nb\nc");
}

#[test]
fn values_print_as_in_python() {
    for (source, want) in [
        ("{{ true }} {{ none }} {{ 1.0 }} {{ undefined_thing }}|", "True None 1.0 |"),
        ("{{ ['a', \"it's\", 1] }} {{ {'k': false} }}", "['a', \"it's\", 1] {'k': False}"),
        ("{{ messages[0] }}", "{'role': 'user', 'content': 'hi'}"),
        ("{{ ' x '.strip() }}{{ 'a,b'.split(',')[1] }}{{ 'Ab'.upper() }}", "xbAB"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        (
            "{{ ', '.join(['a', 1, true]) }} {{ '{}-{:>3}'.format('a', 7) }} {{ 'abab'.replace('a', 'x', 1) }}",
            "a, 1, True a-  7 xbab",
        ),
        (
            "{{ 'a b'.split()|length }} {{ 'é'|length }} {{ ['a', 'a'].count('a') }} {{ 'ab' is lower }}",
            "2 1 2 True",
        ),
        (
            "{{ 'a' ~ 1 + 2|int ~ '' if true ~ '' else 0 }}|{{ 1 ~ ['a'] ~ none ~ nope ~ 2 * 3 }}",
            "a12|1['a']None6",
        ),
        (
            "{{ [1, 'a']|join('-') }} {{ messages|join(attribute='role') }} {{ ['a']|string|upper }}",
            "1-a user ['A']",
        ),
        (
            "{{ 'aXa'|replace('X', 'b', count=1)|trim('a') }} {{ 'a\nb'|indent(2) }} {{ '%s-%d'|format('x', 3) }}",
            "b a\n  b x-3",
        ),
        ("{% generation %}x{% endgeneration %}", "x"),
        (
            "{% set ns = namespace(n=1) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
            "4",
        ),
        (
            "{% set ns = namespace(l=[]) %}{% for i in range(3) %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.l }}",
            "[0, 1, 2]",
        ),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
    ] {
        assert_eq!(print(source).unwrap(), want, "{source}");
    }
}

#[test]
fn tools_reach_the_prompt_in_their_order_as_python_writes_json() {
    let tools: serde_json::Value =
        serde_json::from_str(r#"[{"type":"function","function":{"name":"f","b":[1,2.5],"a":"é\n<\""}}]"#)
            .unwrap();
    let with = |source: &str| {
        let options = RenderOptions { tools: Some(tools.clone()), ..RenderOptions::default() };
        render(source, &[], options).unwrap()
    };
    assert_eq!(
        with("{% if tools %}{{ tools[0] | tojson }}{% endif %}"),
        r#"{"type": "function", "function": {"name": "f", "b": [1, 2.5], "a": "é\n<\""}}"#
    );
    assert_eq!(with("{{ tools[0].function.b | tojson(indent=2) }}"), "[\n  1,\n  2.5\n]");
    assert_eq!(print("{{ tools is none }}{{ tools is defined }}").unwrap(), "TrueTrue");
}

#[test]
fn extra_variables_reach_the_template_but_not_over_its_own() {
    let extra = serde_json::json!({"enable_thinking": false, "messages": 5});
    let options = RenderOptions { extra: extra.as_object().unwrap().clone(), ..RenderOptions::default() };
    assert_eq!(
        render("{{ enable_thinking }}{{ messages[0].content }}", &[("user", "hi")], options).unwrap(),
        "Falsehi"
    );
}

#[test]
fn dates_follow_the_calendar() {
    for (now_s, want) in [
        (0, "01 Jan 1970 Thu 001"),
        (951_782_400, "29 Feb 2000 Tue 060"),
        (1_735_689_599, "31 Dec 2024 Tue 366"),
        (-86_400, "31 Dec 1969 Wed 365"),
        (4_102_444_800, "01 Jan 2100 Fri 001"),
    ] {
        let options = RenderOptions { now_s: Some(now_s), ..RenderOptions::default() };
        let prompt = render("{{ strftime_now('%d %b %Y %a %j') }}", &[], options).unwrap();
        assert_eq!(prompt, want);
    }
    let options = RenderOptions { now_s: Some(47_045), ..RenderOptions::default() };
    assert_eq!(
        render("{{ strftime_now('%H:%M:%S %I %p %%%q%') }}", &[], options).unwrap(),
        "13:04:05 01 PM %%q%"
    );
}

#[test]
fn every_built_in_template_renders_a_dialogue() {
    let turns = [("system", "S"), ("user", "A"), ("assistant", "B"), ("user", "C")];
    for (family, want) in [
        (
            "qwen2",
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n\
             <|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("llama2", "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nA [/INST] B </s><s>[INST] C [/INST]"),
        (
            "llama3",
            "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nA\
             <|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nB<|eot_id|><|start_header_id|>user\
             <|end_header_id|>\n\nC<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            "gemma3",
            "<s><start_of_turn>user\nS\n\nA<end_of_turn>\n<start_of_turn>model\nB<end_of_turn>\n\
             <start_of_turn>user\nC<end_of_turn>\n<start_of_turn>model\n",
        ),
        ("mistral", "<s>[INST] S\n\nA [/INST] B</s>[INST] C [/INST]"),
        (
            "phi3",
            "<|system|>\nS<|end|>\n<|user|>\nA<|end|>\n<|assistant|>\nB<|end|>\n<|user|>\nC<|end|>\n<|assistant|>\n",
        ),
    ] {
        let prompt = render(builtin_template(family).unwrap(), &turns, RenderOptions::default()).unwrap();
        assert_eq!(prompt, want, "{family}");
    }
    assert!(builtin_template("llama").is_none());
}

/// Templates that try to hang, to fill the memory or to overflow the stack: every one must end in an error.
fn hostile() -> Vec<String> {
    let n = 10_000;
    let fixed = [
        "{% for i in range(1000000000000) %}x{% endfor %}",
        "{{ range(1000000000)|list|length }}",
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% endfor %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s|length }}",
        "{% set ns = namespace(s=['a']) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s|length }}",
        "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s=1) %}{% for i in range(99999) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s=1) %}{% for i in range(99999) %}{% set ns.s = {'a': ns.s}|items %}{% endfor %}{{ ns.s }}",
        "{{ 'a' * 100000000000 }}",
        "{{ ([0] * 100000000000)|length }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ 'a'|center(99999999999) }}",
        "{{ 9 ** 999999999 }}",
        "{{ 1 // 0 }}",
        "{{ ('a\n' * 99999)|indent(99999) }}",
        "{{ ('a' * 99999)|replace('a', 'b' * 99999) }}",
        "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
        "{{ range(99999)|join('x' * 99999) }}",
        "{{ ('x' * 99999).join(range(99999)|map('string')|list) }}",
        "{{ 'x'.join(['y' * 999999] * 99999) }}",
        "{{ ('{0}' * 99999).format('y' * 99999) }}",
        "{{ ('{a}' * 99999).format(a='y' * 99999) }}",
        "{{ '{0}'.format([['y' * 99999] * 9999] * 9999) }}",
        "{{ ('a b ' * 9999999).split()|length }}",
        "{% set s = 'a' * 9999999 %}{% for i in range(99999) %}{% set x = s.count('b') + s|length %}{% endfor %}",
        "{{ ([['y' * 999999] * 99999])|string|length }}",
        "{{ (['y' * 999999] * 99999) ~ '' }}",
        "{{ ([['y' * 999999] * 99999])|upper }}",
        "{{ ([['y' * 999999] * 99999])|trim }}",
        "{{ 'abc'|replace('b', ['y' * 999999] * 99999) }}",
        "{{ '%s'|format(['y' * 999999] * 99999) }}",
        "{{ [['y' * 999999] * 99999]|join(', ') }}",
        "{{ ', '.join([['y' * 999999] * 99999]) }}",
        "{{ raise_exception(['y' * 999999] * 99999) }}",
        "{{ {(['y' * 999999] * 99999): 1}|tojson }}",
        "{{ namespace({(['y' * 999999] * 99999): 1}) }}",
        "{% set a = ['y' * 999999] * 99999 %}{% if 'x' ~ a == a ~ 'x' %}{% endif %}{{ 1 + 'x' ~ a }}",
        "{% macro f(x='x' ~ ['y' * 999999] * 99999) %}{{ x }}{% endmacro %}{{ f() }}",
        "{% set x %}{{ ['y' * 999999] * 99999 }}{% endset %}",
        "{{ messages|tojson(indent=999999999) }}",
        "{{ messages|tojson(separators=['a' * 99999, 'b']) }}",
        "{% macro f(x) %}{{ f(x + 1) }}{% endmacro %}{{ f(0) }}",
        "{% macro f(x) %}{{ f([x]) }}{% endmacro %}{{ f(0) }}",
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% for i in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
        "{% include 'chat_template' %}",
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns|string }}",
        "{% set ns = namespace() %}{% set ns.a = ns.items() %}{% set ns.a = ns %}{{ ns|tojson }}",
        "{% set a = namespace() %}{% set b = namespace(x=a) %}{% set a.x = b %}{{ a == b }}",
        "{% set ns = namespace() %}{% set (ns.a, x) = (ns, 1) %}{{ ns ~ '' }}",
        "{% set l = [] %}{% set _ = l.append(l) %}{{ l }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ self.__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{% import '../../x' as y %}",
        "{% extends '/etc/passwd' %}",
        "{% for m in messages %}{{ m",
        "{% endfor %}{{ }} {% if %}",
        "{{ a.b.c.d }}",
        "{{ 'x'|nosuchfilter }}",
        "{{ nosuchfn() }}",
        "{{ raise_exception('no\u{1b}[2J') }}",
        "{{ strftime_now('%' * 9999) }}",
        "{{ messages[::-1][::0] }}",
    ];
    let long = [
        "x".repeat(512 << 10),
        format!("{{{{ {}1{} }}}}", "(".repeat(n), ")".repeat(n)),
        format!("{{{{ {}{} }}}}", "[".repeat(n), "]".repeat(n)),
        format!("{{{{ {}1 }}}}", "not ".repeat(n)),
        format!("{{{{ {}1 }}}}", "-".repeat(n)),
        format!("{{{{ a{} }}}}", ".a".repeat(n)),
        format!("{{{{ 1{} }}}}", "+1".repeat(n)),
        format!("{{{{ 'a'{} }}}}", "~'a'".repeat(n)),
        format!("{{{{ 'a'{} }}}}", "|trim".repeat(n)),
        format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(n / 3)),
        format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(n)),
        format!("{}{}", "{% if 1 %}".repeat(3000), "{% endif %}".repeat(3000)),
        format!("{}x", "{% for a in messages %}".repeat(2000)),
    ];
    fixed.into_iter().map(str::to_owned).chain(long).collect()
}

#[test]
fn hostile_templates_end_in_an_error_soon() {
    for source in hostile() {
        let result = print(&source);
        let head: String = source.chars().take(80).collect();
        assert!(result.is_err(), "{head}: {:?}", result.map(|s| s.chars().take(80).collect::<String>()));
        let message = result.unwrap_err().to_string();
        assert!(!message.contains(['\u{1b}', '\n']) && message.len() < 800, "{message}");
    }
}

#[test]
fn templates_at_the_limits_still_work() {
    for source in [
        format!("{{% if 0 %}}{}{{% endif %}}ok", "{% elif 0 %}".repeat(1000)),
        format!("{}ok{}", "{% if 1 %}".repeat(64), "{% endif %}".repeat(64)),
        format!("{{{{ '' {} ~ 'ok' }}}}", "~ ''".repeat(1900)),
        format!("{{{{ {}'ok'{} }}}}", "(".repeat(32), ")".repeat(32)),
    ] {
        assert_eq!(print(&source).unwrap(), "ok");
    }
}

#[test]
fn literals_chained_to_great_depth_cannot_overflow_the_stack() {
    // 32 brackets a tag, each tag around the value of the one before: the deepest value the limits let through.
    let wrap = format!("{{% set a={}a{}%}}", "[".repeat(32), "]".repeat(32));
    let source = format!("{{% set a=1 %}}{}", wrap.repeat((60 << 10) / wrap.len()));
    for use_it in [
        "{{ a }}",
        "{{ a ~ '' }}",
        "{{ a|string }}",
        "{{ a|tojson }}",
        "{{ a == a }}",
        "{{ [a, a]|sort }}",
        "{{ [a, a]|unique }}",
    ] {
        // What it gives is of no interest; that the process is still there is.
        let _ = print(&format!("{source}{use_it}"));
    }
    assert!(print(&format!("{source}{{{{ a }}}}")).is_err());
}

#[test]
fn output_is_capped() {
    let options = RenderOptions { max_bytes: 1000, ..RenderOptions::default() };
    let template = "{% for i in range(200) %}123456{% endfor %}";
    assert!(matches!(render(template, &[], options.clone()), Err(TextError::TemplateLimit(_))));
    assert_eq!(render("{{ 'x' * 1000 }}", &[], options).unwrap().len(), 1000);
}

#[test]
fn a_long_conversation_fits_the_budget() {
    let text = "word ".repeat(2000);
    let turns: Vec<Message> = (0..1000)
        .map(|i| Message::new(if i % 2 == 0 { "user" } else { "assistant" }, text.as_str()))
        .collect();
    let template = ChatTemplate::compile(GEMMA3, "", "").unwrap();
    assert!(template.render(&turns, RenderOptions::default()).unwrap().len() > 9_000_000);
}
