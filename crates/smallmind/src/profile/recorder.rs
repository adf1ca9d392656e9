//! The probe of the profiler: a tree of stages with calls and times, and, where asked for, every call in order.
//!
//! It records and does not judge. Recording one call costs two looks at the clock, and no memory: that is taken before
//! ([`Recorder::with_room`], [`Recorder::with_events`]), and only where it does not suffice, in ever larger steps.

use std::time::{Duration, Instant};

use super::{Allocated, AllocationHooks, PassShape, Probe, Scope};

/// A stage at its place in the tree.
#[derive(Clone, Debug)]
pub struct Node {
    /// What is done.
    pub scope: Scope,
    /// The node it happens within; `None` at the top.
    pub parent: Option<usize>,
    /// How often.
    pub calls: u64,
    /// All of it, with what happens within.
    pub total: Duration,
    /// The part of `total` that nodes within account for.
    pub within: Duration,
    /// The shortest call.
    pub least: Duration,
    /// The longest call.
    pub most: Duration,
    /// What was allocated meanwhile, with what happens within, by all threads; zero without a counter.
    pub allocated: Allocated,
    /// The children are a list from the first on.
    first_child: Option<usize>,
    next_sibling: Option<usize>,
}

impl Node {
    /// The time that no node within accounts for.
    pub fn exclusive(&self) -> Duration {
        self.total.saturating_sub(self.within)
    }
}

/// One call, for a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Index of the node.
    pub node: usize,
    /// Since the recorder was made.
    pub start: Duration,
    /// How long it took.
    pub duration: Duration,
}

/// A call that has not ended.
#[derive(Clone, Copy, Debug)]
struct Open {
    node: usize,
    /// The child to look at first: stages come in the same order every time.
    next: Option<usize>,
    start: Instant,
    allocated: Allocated,
}

/// Records stages.
#[derive(Debug)]
pub struct Recorder {
    nodes: Vec<Node>,
    first_root: Option<usize>,
    next_root: Option<usize>,
    open: Vec<Open>,
    passes: Vec<(usize, PassShape)>,
    events: Vec<Event>,
    most_events: usize,
    lost_events: u64,
    allocations: Option<AllocationHooks>,
    began: Instant,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder::new()
    }
}

impl Recorder {
    /// Records the tree alone.
    pub fn new() -> Recorder {
        Recorder {
            nodes: Vec::with_capacity(64),
            first_root: None,
            next_root: None,
            open: Vec::with_capacity(8),
            passes: Vec::with_capacity(1024),
            events: Vec::new(),
            most_events: 0,
            lost_events: 0,
            allocations: None,
            began: Instant::now(),
        }
    }

    /// Takes memory now for the stages of a model of that many layers, in prefill and decode, and for so many passes, so
    /// that recording takes none and allocations are those of what is recorded.
    #[must_use]
    pub fn with_room(mut self, layers: usize, passes: usize) -> Recorder {
        // A layer is 9 stages, most of them with a product and what is quantized for it; beside the layers there are few.
        self.nodes.reserve(2 * (32 * layers + 32));
        self.passes.reserve(passes);
        self
    }

    /// Records the first `most` calls one by one, too. Memory for them is taken now.
    #[must_use]
    pub fn with_events(mut self, most: usize) -> Recorder {
        self.events = Vec::with_capacity(most);
        self.most_events = most;
        self
    }

    /// Looks at the allocations at the beginning and end of every stage.
    #[must_use]
    pub fn with_allocations(mut self, hooks: AllocationHooks) -> Recorder {
        self.allocations = Some(hooks);
        self
    }

    /// Every stage that ran, each after the one it happens within.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes within one, or those at the top, in the order in which they were first seen.
    pub fn children(&self, node: Option<usize>) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(self.first_child(node), |n| self.nodes[*n].next_sibling)
    }

    fn first_child(&self, node: Option<usize>) -> Option<usize> {
        node.map_or(self.first_root, |node| self.nodes[node].first_child)
    }

    /// Every pass, with the node it ran in.
    pub fn passes(&self) -> &[(usize, PassShape)] {
        &self.passes
    }

    /// The calls in the order of their ends.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Calls that came after the events were full.
    pub fn lost_events(&self) -> u64 {
        self.lost_events
    }

    /// The child of that scope, made where it is new.
    fn child(&mut self, parent: Option<usize>, hint: Option<usize>, scope: Scope) -> usize {
        if let Some(node) = hint.filter(|n| self.nodes[*n].scope == scope) {
            return node;
        }
        let mut last = None;
        for node in self.children(parent) {
            if self.nodes[node].scope == scope {
                return node;
            }
            last = Some(node);
        }
        let node = self.nodes.len();
        self.nodes.push(Node {
            scope,
            parent,
            calls: 0,
            total: Duration::ZERO,
            within: Duration::ZERO,
            least: Duration::MAX,
            most: Duration::ZERO,
            allocated: Allocated::default(),
            first_child: None,
            next_sibling: None,
        });
        match (last, parent) {
            (Some(last), _) => self.nodes[last].next_sibling = Some(node),
            (None, Some(parent)) => self.nodes[parent].first_child = Some(node),
            (None, None) => self.first_root = Some(node),
        }
        node
    }
}

impl Probe for Recorder {
    fn begin(&mut self, scope: Scope) {
        let (parent, hint) = self.open.last().map_or((None, self.next_root), |o| (Some(o.node), o.next));
        let node = self.child(parent, hint, scope);
        let next = self.nodes[node].next_sibling;
        match self.open.last_mut() {
            Some(open) => open.next = next,
            None => self.next_root = next,
        }
        let allocated = self.allocations.map_or(Allocated::default(), |hooks| {
            let now = (hooks.now)();
            (hooks.set_peak)(now.live);
            now
        });
        let next = self.nodes[node].first_child;
        self.open.push(Open { node, next, start: Instant::now(), allocated });
    }

    fn end(&mut self) {
        let Some(open) = self.open.pop() else { return };
        let took = open.start.elapsed();
        let node = &mut self.nodes[open.node];
        node.calls += 1;
        node.total += took;
        node.least = node.least.min(took);
        node.most = node.most.max(took);
        if let Some(hooks) = self.allocations {
            let (before, now) = (open.allocated, (hooks.now)());
            node.allocated.calls += now.calls.saturating_sub(before.calls);
            node.allocated.bytes += now.bytes.saturating_sub(before.bytes);
            node.allocated.live += now.live - before.live;
            node.allocated.peak = node.allocated.peak.max(now.peak - before.live);
            (hooks.set_peak)(now.peak.max(before.peak));
        }
        if let Some(parent) = node.parent {
            self.nodes[parent].within += took;
        }
        if self.events.len() < self.most_events {
            let start = open.start.duration_since(self.began);
            self.events.push(Event { node: open.node, start, duration: took });
        } else if self.most_events > 0 {
            self.lost_events += 1;
        }
    }

    fn pass(&mut self, shape: PassShape) {
        if let Some(open) = self.open.last() {
            self.passes.push((open.node, shape));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Stage;
    use super::*;

    fn run(recorder: &mut Recorder, layers: usize) {
        recorder.begin(Stage::Pass.into());
        for layer in 0..layers {
            recorder.begin(Stage::Layer.of_layer(layer));
            recorder.stage(Stage::Qkv.of_layer(layer), || std::hint::black_box(1));
            recorder.end();
        }
        recorder.end();
    }

    #[test]
    fn stages_are_counted_where_they_happen() {
        let mut r = Recorder::new();
        run(&mut r, 2);
        run(&mut r, 2);
        assert_eq!(r.stage(Stage::Sample.into(), || 7), 7);
        let shown: Vec<(Stage, Option<u32>, Option<usize>, u64)> =
            r.nodes().iter().map(|n| (n.scope.stage, n.scope.layer, n.parent, n.calls)).collect();
        let want = [
            (Stage::Pass, None, None, 2),
            (Stage::Layer, Some(0), Some(0), 2),
            (Stage::Qkv, Some(0), Some(1), 2),
            (Stage::Layer, Some(1), Some(0), 2),
            (Stage::Qkv, Some(1), Some(3), 2),
            (Stage::Sample, None, None, 1),
        ];
        assert_eq!(shown, want);
        let children = |node| r.children(node).collect::<Vec<_>>();
        assert_eq!((children(None), children(Some(0)), children(Some(5))), (vec![0, 5], vec![1, 3], vec![]));
        for node in r.nodes() {
            assert!(node.within <= node.total && node.least <= node.most && node.most <= node.total);
        }
        assert!(r.events().is_empty() && r.lost_events() == 0);
    }

    #[test]
    fn calls_are_kept_in_order_until_there_is_no_room() {
        let mut r = Recorder::new().with_events(4);
        run(&mut r, 2);
        assert_eq!(r.events().iter().map(|e| e.node).collect::<Vec<_>>(), [2, 1, 4, 3]);
        assert_eq!(r.lost_events(), 1);
        let [qkv, layer] = [r.events()[0], r.events()[1]];
        assert!(layer.start <= qkv.start && qkv.start + qkv.duration <= layer.start + layer.duration);
    }

    #[test]
    fn room_that_was_taken_before_suffices_for_a_model_and_its_passes() {
        let mut r = Recorder::new().with_room(2, 100);
        let room = (r.nodes.capacity(), r.passes.capacity(), r.open.capacity());
        for phase in [Stage::Prefill, Stage::Decode] {
            for _ in 0..50 {
                r.begin(phase.into());
                r.pass(PassShape::default());
                run(&mut r, 2);
                r.end();
            }
        }
        assert_eq!((r.nodes.capacity(), r.passes.capacity(), r.open.capacity()), room);
        assert_eq!((r.nodes().len(), r.passes().len()), (2 * 6, 100));
    }

    #[test]
    fn allocations_belong_to_the_stage_they_happen_in() {
        use std::sync::atomic::{AtomicI64, Ordering};
        // Every call takes 10 bytes and keeps them.
        static CALLS: AtomicI64 = AtomicI64::new(0);
        static PEAK: AtomicI64 = AtomicI64::new(0);
        let take =
            |n: i64| PEAK.fetch_max(10 * (CALLS.fetch_add(n, Ordering::Relaxed) + n), Ordering::Relaxed);
        let now = || {
            let calls = CALLS.load(Ordering::Relaxed);
            let (peak, count) = (PEAK.load(Ordering::Relaxed), calls.unsigned_abs());
            Allocated { calls: count, bytes: 10 * count, live: 10 * calls, peak }
        };
        let set_peak = |peak| PEAK.store(peak, Ordering::Relaxed);
        let mut r = Recorder::new().with_allocations(AllocationHooks { now, set_peak });
        r.begin(Stage::Load.into());
        r.stage(Stage::Product.into(), || take(2));
        take(1);
        r.end();
        let allocated: Vec<Allocated> = r.nodes().iter().map(|n| n.allocated).collect();
        let of = |calls: u64, bytes: i64| Allocated {
            calls,
            bytes: bytes.unsigned_abs(),
            live: bytes,
            peak: bytes,
        };
        assert_eq!(allocated, [of(3, 30), of(2, 20)]);
    }

    #[test]
    fn an_end_without_a_beginning_is_nothing() {
        let mut r = Recorder::new();
        r.end();
        r.pass(PassShape::default());
        assert!(r.nodes().is_empty() && r.passes().is_empty());
    }
}
