//! The KV cache of one sequence: pages of 256 positions a layer and head, so that it grows without copying what is
//! there, and a ring of pages where a layer's window bounds what can ever be seen again.

use smallmind_kernels::attention::{PAGE, PageMut, PageRef, page_len};

use crate::model::config::Config;

/// How K and V are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KvPrecision {
    /// Half precision: the default.
    #[default]
    F16,
    /// Single precision: twice the memory.
    F32,
}

#[derive(Debug)]
enum Page {
    F16(Box<[u16]>),
    F32(Box<[f32]>),
}

/// The pages of one key/value head in one layer.
#[derive(Debug, Default)]
pub(crate) struct HeadPages {
    pages: Vec<Page>,
    /// Pages kept, where a window bounds them: page p lives in slot p mod ring.
    ring: Option<usize>,
}

impl HeadPages {
    fn slot(&self, page: usize) -> usize {
        self.ring.map_or(page, |ring| page % ring)
    }

    /// Page `page` (positions `page · 256 ..`), which [`KvCache::reserve`] made room for.
    pub(crate) fn page(&self, page: usize) -> PageRef<'_> {
        match &self.pages[self.slot(page)] {
            Page::F16(p) => PageRef::F16(p),
            Page::F32(p) => PageRef::F32(p),
        }
    }

    pub(crate) fn page_mut(&mut self, page: usize) -> PageMut<'_> {
        let slot = self.slot(page);
        match &mut self.pages[slot] {
            Page::F16(p) => PageMut::F16(p),
            Page::F32(p) => PageMut::F32(p),
        }
    }
}

/// K and V of all positions of one sequence.
#[derive(Debug)]
pub struct KvCache {
    /// `[layers][kv_heads]`.
    layers: Vec<Vec<HeadPages>>,
    precision: KvPrecision,
    page_len: usize,
    len: usize,
    /// Positions that windowed layers see, and pages that their rings keep.
    window: Option<(usize, usize)>,
}

impl KvCache {
    /// An empty cache for sequences that are prefilled in chunks of at most `chunk` tokens.
    pub(crate) fn new(config: &Config, precision: KvPrecision, chunk: usize) -> KvCache {
        // The oldest position that a chunk's first row sees and the newest that its last row writes are in the ring at
        // once.
        let window = config.window.map(|w| (w, (w + chunk).div_ceil(PAGE) + 1));
        let layers = (0..config.layers)
            .map(|layer| {
                let ring = window.map(|(_, ring)| ring).filter(|_| config.layer_window(layer).is_some());
                (0..config.kv_heads).map(|_| HeadPages { pages: Vec::new(), ring }).collect()
            })
            .collect();
        KvCache { layers, precision, page_len: page_len(config.head_dim), len: 0, window }
    }

    /// Positions filled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is filled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes room for `positions` positions in all. What is there stays where it is.
    pub(crate) fn reserve(&mut self, positions: usize) {
        let pages = positions.div_ceil(PAGE);
        for head in self.layers.iter_mut().flatten() {
            let wanted = head.ring.map_or(pages, |ring| pages.min(ring));
            head.pages.reserve_exact(wanted.saturating_sub(head.pages.len()));
            while head.pages.len() < wanted {
                head.pages.push(match self.precision {
                    KvPrecision::F16 => Page::F16(vec![0; self.page_len].into()),
                    KvPrecision::F32 => Page::F32(vec![0.0; self.page_len].into()),
                });
            }
        }
    }

    /// Takes note that `tokens` more positions are filled.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Forgets all positions from `len` on. Windowed layers keep only so much of the past: where the cut goes back
    /// further than that, everything is forgotten. Returns the positions that are left.
    pub(crate) fn truncate(&mut self, len: usize) -> usize {
        if len < self.len {
            let newest = (self.len - 1) / PAGE;
            let lost = self.window.is_some_and(|(window, ring)| {
                let oldest_needed = (len + 1).saturating_sub(window) / PAGE;
                newest - oldest_needed >= ring
            });
            self.len = if lost { 0 } else { len };
        }
        self.len
    }

    /// The heads of a layer.
    pub(crate) fn layer(&self, layer: usize) -> &[HeadPages] {
        &self.layers[layer]
    }

    pub(crate) fn layer_mut(&mut self, layer: usize) -> &mut [HeadPages] {
        &mut self.layers[layer]
    }

    /// Bytes of all pages.
    pub(crate) fn bytes(&self) -> usize {
        let pages = self.layers.iter().flatten().flat_map(|head| &head.pages);
        let of = |page: &Page| match page {
            Page::F16(p) => size_of_val(&**p),
            Page::F32(p) => size_of_val(&**p),
        };
        pages.map(of).sum()
    }

    /// Bytes that one more position takes, for a cache of this shape.
    pub fn bytes_per_token(config: &Config, precision: KvPrecision) -> usize {
        let value = match precision {
            KvPrecision::F16 => 2,
            KvPrecision::F32 => 4,
        };
        config.layers * config.kv_heads * page_len(config.head_dim) / PAGE * value
    }
}
