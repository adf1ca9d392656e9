//! The probe of the profiler: a tree of stages with calls and times, and, where asked for, every call in order.
//!
//! It records and does not judge. Recording one call costs two looks at the clock, one where it follows another at once, a
//! cache line of the tree, and no memory: that is taken before ([`Recorder::with_room`], [`Recorder::with_events`]), and only
//! where it does not suffice, in ever larger steps. What recording costs between two stages that follow at once is part of
//! the second's time.

use super::clock::Clock;
use super::{Allocated, AllocationHooks, PassShape, Probe, Scope};

/// A stage at its place in the tree, in one cache line: between two calls of a stage a model's weights go through the caches,
/// so that every line a call touches may have to come from afar.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub struct Node {
    /// What is done.
    pub scope: Scope,
    /// How often.
    pub calls: u64,
    /// All of it, with what happens within.
    pub total_ns: u64,
    /// The part of `total_ns` that nodes within account for.
    pub within_ns: u64,
    /// The shortest call.
    pub least_ns: u64,
    /// The longest call.
    pub most_ns: u64,
    parent: Link,
    /// The children are a list from the first on.
    first_child: Link,
    next_sibling: Link,
}

impl Node {
    /// The node it happens within; `None` at the top.
    pub fn parent(&self) -> Option<usize> {
        self.parent.get()
    }

    /// The time that no node within accounts for.
    pub fn exclusive_ns(&self) -> u64 {
        self.total_ns.saturating_sub(self.within_ns)
    }
}

/// A node's index, or none, in four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link(u32);

impl Link {
    const NONE: Link = Link(u32::MAX);

    #[inline]
    fn get(self) -> Option<usize> {
        (self != Link::NONE).then_some(self.0 as usize)
    }
}

/// One call, for a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Index of the node.
    pub node: usize,
    /// Since the recorder was made.
    pub start_ns: u64,
    /// How long it took.
    pub duration_ns: u64,
}

/// A call that has not ended.
#[derive(Clone, Copy, Debug)]
struct Open {
    node: usize,
    /// The child to look at first: stages come in the same order every time.
    next: Link,
    start_ns: u64,
    /// What stages within took.
    within_ns: u64,
    allocated: Allocated,
}

/// Records stages.
#[derive(Debug)]
pub struct Recorder {
    nodes: Vec<Node>,
    /// What was allocated in each node.
    allocated: Vec<Allocated>,
    first_root: Link,
    next_root: Link,
    open: Vec<Open>,
    passes: Vec<(usize, PassShape)>,
    events: Vec<Event>,
    most_events: usize,
    lost_events: u64,
    allocations: Option<AllocationHooks>,
    clock: Clock,
    /// When the last stage began or ended.
    last_ns: u64,
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
            allocated: Vec::with_capacity(64),
            first_root: Link::NONE,
            next_root: Link::NONE,
            open: Vec::with_capacity(8),
            passes: Vec::with_capacity(1024),
            events: Vec::new(),
            most_events: 0,
            lost_events: 0,
            allocations: None,
            clock: Clock::start(),
            last_ns: 0,
        }
    }

    /// Takes memory now for the stages of a model of that many layers, in prefill and decode, and for so many passes, so
    /// that recording takes none and allocations are those of what is recorded.
    #[must_use]
    pub fn with_room(mut self, layers: usize, passes: usize) -> Recorder {
        // A layer is 9 stages, most of them with a product and what is quantized for it; beside the layers there are few.
        let nodes = 2 * (32 * layers + 32);
        self.nodes.reserve(nodes);
        self.allocated.reserve(nodes);
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
        let first = node.map_or(self.first_root, |node| self.nodes[node].first_child);
        std::iter::successors(first.get(), |n| self.nodes[*n].next_sibling.get())
    }

    /// What was allocated in a node, with what happens within, by all threads; zero without a counter.
    pub fn allocated(&self, node: usize) -> Allocated {
        self.allocated.get(node).copied().unwrap_or_default()
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
    #[cold]
    fn child(&mut self, parent: Option<usize>, scope: Scope) -> usize {
        let mut last = None;
        for node in self.children(parent) {
            if self.nodes[node].scope == scope {
                return node;
            }
            last = Some(node);
        }
        let node = self.nodes.len();
        // No model has 2³² stages: its description would not fit into memory.
        let link = Link(u32::try_from(node).unwrap_or(u32::MAX));
        self.nodes.push(Node {
            scope,
            calls: 0,
            total_ns: 0,
            within_ns: 0,
            least_ns: u64::MAX,
            most_ns: 0,
            parent: parent.map_or(Link::NONE, |p| Link(u32::try_from(p).unwrap_or(u32::MAX))),
            first_child: Link::NONE,
            next_sibling: Link::NONE,
        });
        self.allocated.push(Allocated::default());
        match (last, parent) {
            (Some(last), _) => self.nodes[last].next_sibling = link,
            (None, Some(parent)) => self.nodes[parent].first_child = link,
            (None, None) => self.first_root = link,
        }
        node
    }

    /// Adds what was allocated since a stage began.
    fn count(&mut self, node: usize, before: Allocated, hooks: AllocationHooks) {
        let now = (hooks.now)();
        // Decoding allocates nothing: the counts' line is left alone.
        if now == before && now.peak == now.live {
            return;
        }
        let allocated = &mut self.allocated[node];
        allocated.calls += now.calls.saturating_sub(before.calls);
        allocated.bytes += now.bytes.saturating_sub(before.bytes);
        allocated.live += now.live - before.live;
        allocated.peak = allocated.peak.max(now.peak - before.live);
        (hooks.set_peak)(now.peak.max(before.peak));
    }

    /// A stage begins; at `None` now.
    #[inline]
    fn open(&mut self, scope: Scope, start_ns: Option<u64>) {
        let (parent, hint) = self.open.last().map_or((None, self.next_root), |o| (Some(o.node), o.next));
        let node = match hint.get() {
            Some(node) if self.nodes[node].scope == scope => node,
            _ => self.child(parent, scope),
        };
        let Node { next_sibling, first_child, .. } = self.nodes[node];
        match self.open.last_mut() {
            Some(open) => open.next = next_sibling,
            None => self.next_root = next_sibling,
        }
        let allocated = self.allocations.map_or(Allocated::default(), |hooks| {
            let now = (hooks.now)();
            (hooks.set_peak)(now.live);
            now
        });
        let start_ns = start_ns.unwrap_or_else(|| self.clock.now());
        self.last_ns = start_ns;
        self.open.push(Open { node, next: first_child, start_ns, within_ns: 0, allocated });
    }

    /// The stage that began last ended.
    #[inline]
    fn close(&mut self, now: u64) {
        self.last_ns = now;
        let Some(open) = self.open.pop() else { return };
        let took = now.saturating_sub(open.start_ns);
        if let Some(around) = self.open.last_mut() {
            around.within_ns += took;
        }
        let node = &mut self.nodes[open.node];
        node.calls += 1;
        node.total_ns += took;
        node.within_ns += open.within_ns;
        node.least_ns = node.least_ns.min(took);
        node.most_ns = node.most_ns.max(took);
        if let Some(hooks) = self.allocations {
            self.count(open.node, open.allocated, hooks);
        }
        if self.events.len() < self.most_events {
            self.events.push(Event { node: open.node, start_ns: open.start_ns, duration_ns: took });
        } else if self.most_events > 0 {
            self.lost_events += 1;
        }
    }
}

impl Probe for Recorder {
    fn begin(&mut self, scope: Scope) {
        self.open(scope, None);
    }

    fn end(&mut self) {
        self.close(self.clock.now());
    }

    fn begin_at_once(&mut self, scope: Scope) {
        self.open(scope, Some(self.last_ns));
    }

    fn end_at_once(&mut self) {
        self.close(self.last_ns);
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
            r.nodes().iter().map(|n| (n.scope.stage, n.scope.layer, n.parent(), n.calls)).collect();
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
            assert!(node.within_ns <= node.total_ns && node.least_ns <= node.most_ns);
            assert!(node.most_ns <= node.total_ns && node.exclusive_ns() == node.total_ns - node.within_ns);
            // Times of what happens within are counted once.
            let at = std::ptr::from_ref(node);
            let index = r.nodes().iter().position(|n| std::ptr::eq(n, at));
            let within: u64 = r.children(index).map(|child| r.nodes()[child].total_ns).sum();
            assert_eq!(node.within_ns, within);
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
        let end = |e: Event| e.start_ns + e.duration_ns;
        assert!(layer.start_ns <= qkv.start_ns && end(qkv) <= end(layer));
    }

    #[test]
    fn what_follows_at_once_begins_where_the_last_ended() {
        let mut r = Recorder::new().with_events(8);
        r.begin(Stage::Layer.into());
        r.stage_at_once(Stage::AttnNorm.into(), || std::hint::black_box(1));
        r.begin_at_once(Stage::AttnOut.into());
        r.stage_at_once(Stage::Product.into(), || std::hint::black_box(2));
        r.end_at_once();
        r.end();
        let end = |e: Event| e.start_ns + e.duration_ns;
        let [norm, product, out, layer] = r.events() else { panic!("{:?}", r.events()) };
        assert_eq!((norm.start_ns, out.start_ns, product.start_ns), (layer.start_ns, end(*norm), end(*norm)));
        assert_eq!(out, &Event { node: out.node, ..*product });
        assert!(end(*layer) >= end(*out));
        // All of it is accounted for but what lies behind the last stage within.
        assert_eq!(r.nodes()[0].exclusive_ns(), end(*layer) - end(*out));
        assert_eq!(r.nodes()[out.node].exclusive_ns(), 0);
    }

    #[test]
    fn a_node_is_a_cache_line() {
        assert_eq!((size_of::<Node>(), align_of::<Node>()), (64, 64));
    }

    #[test]
    fn room_that_was_taken_before_suffices_for_a_model_and_its_passes() {
        let mut r = Recorder::new().with_room(2, 100);
        let room = |r: &Recorder| {
            [r.nodes.capacity(), r.allocated.capacity(), r.passes.capacity(), r.open.capacity()]
        };
        let taken = room(&r);
        for phase in [Stage::Prefill, Stage::Decode] {
            for _ in 0..50 {
                r.begin(phase.into());
                r.pass(PassShape::default());
                run(&mut r, 2);
                r.end();
            }
        }
        assert_eq!(room(&r), taken);
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
        let allocated: Vec<Allocated> = (0..r.nodes().len()).map(|node| r.allocated(node)).collect();
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
