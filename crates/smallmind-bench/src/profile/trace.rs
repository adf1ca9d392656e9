//! The timeline in the Trace Event Format that `chrome://tracing` and ui.perfetto.dev read: complete events (`X`) with
//! times in microseconds, all on one thread, because stages follow one another; what the pool's threads do is inside.

use serde_json::{Value, json};
use smallmind::profile::Recorder;

/// The document.
pub fn chrome_trace(recorder: &Recorder, title: &str) -> Value {
    let nodes = recorder.nodes();
    let mut events = vec![
        json!({"ph": "M", "name": "process_name", "pid": 1, "tid": 1, "ts": 0, "args": {"name": title}}),
        json!({"ph": "M", "name": "thread_name", "pid": 1, "tid": 1, "ts": 0, "args": {"name": "forward pass"}}),
    ];
    let mut calls: Vec<_> = recorder.events().iter().collect();
    // What begins first comes first, what is around something before it: nodes come after those around them.
    calls.sort_by_key(|e| (e.start_ns, std::cmp::Reverse(e.duration_ns), e.node));
    let micros = |ns: u64| ns as f64 / 1e3;
    events.extend(calls.into_iter().map(|e| {
        let scope = nodes[e.node].scope;
        let name = match scope.layer {
            Some(layer) => format!("{} {layer}", scope.stage.name()),
            None => scope.stage.name().to_owned(),
        };
        json!({
            "ph": "X", "name": name, "cat": "smallmind", "pid": 1, "tid": 1, "ts": micros(e.start_ns),
            "dur": micros(e.duration_ns), "args": {"stage": scope.stage.name(), "layer": scope.layer},
        })
    }));
    json!({
        "traceEvents": events, "displayTimeUnit": "ms",
        "otherData": {"title": title, "events_left_out": recorder.lost_events()},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallmind::profile::{Probe, Stage};

    /// What the format's description asks of a document of complete events.
    fn check(document: &Value) {
        assert!(document["displayTimeUnit"] == "ms" || document["displayTimeUnit"] == "ns");
        // Nanoseconds: one event's end is often the next one's beginning.
        let nanoseconds = |v: &Value| (v.as_f64().unwrap() * 1e3).round() as i64;
        let (mut open, mut last): (Vec<(i64, i64)>, i64) = (Vec::new(), 0);
        for event in document["traceEvents"].as_array().unwrap() {
            assert!(event["name"].is_string() && event["pid"].is_u64() && event["tid"].is_u64(), "{event}");
            match event["ph"].as_str().unwrap() {
                "M" => assert!(event["args"]["name"].is_string(), "{event}"),
                "X" => {
                    let (ts, dur) = (nanoseconds(&event["ts"]), nanoseconds(&event["dur"]));
                    assert!(ts >= 0 && dur >= 0 && event["cat"].is_string(), "{event}");
                    assert!(ts >= last, "in the order of their beginnings: {event}");
                    last = ts;
                    // On one thread events nest: none begins within another and ends outside it.
                    open.retain(|(_, end)| *end > ts);
                    assert!(open.iter().all(|(start, end)| *start <= ts && ts + dur <= *end), "{event}");
                    open.push((ts, ts + dur));
                }
                other => panic!("{other} is no phase that we write"),
            }
        }
    }

    #[test]
    fn the_timeline_is_a_trace_that_nests() {
        let mut r = Recorder::new().with_events(7);
        for _ in 0..3 {
            r.begin(Stage::Pass.into());
            r.stage(Stage::Qkv.of_layer(3), || std::thread::sleep(std::time::Duration::from_micros(50)));
            r.stage(Stage::Rope.into(), || ());
            r.end();
        }
        let document = chrome_trace(&r, "a model");
        check(&document);
        let events = document["traceEvents"].as_array().unwrap();
        assert_eq!(events.len(), 2 + 7);
        assert_eq!((&events[2]["name"], &events[3]["name"]), (&"pass".into(), &"qkv 3".into()));
        assert_eq!(events[3]["args"]["layer"], 3);
        assert_eq!(document["otherData"]["events_left_out"], 2);
        let again: Value = serde_json::from_str(&document.to_string()).unwrap();
        check(&again);
    }
}
