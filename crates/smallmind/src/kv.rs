//! The KV cache of one sequence: pages of 256 positions a layer and head, so that it grows without copying what is
//! there, and a ring of pages where a layer's window bounds what can ever be seen again.
//!
//! The pages of the same 256 positions lie side by side in one mapping, layer after layer as a token meets them: from a
//! page boundary on, so that no load crosses a cache line, and in huge pages once a conversation is longer than its first
//! mapping.

use memmap2::MmapMut;
use smallmind_kernels::attention::{PAGE, PageMut, PageRef, integer_page_len, page_len, q8_page_len};

use crate::error::{Error, Result};
use crate::model::config::Config;

/// Of x86-64 and, mostly, of AArch64.
const HUGE_PAGE: usize = 2 << 20;

/// How K and V are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KvPrecision {
    /// Integers of 14 bits with a unit for each head of a position, which attention multiplies exactly: the default. The
    /// memory of half precision and 3 % (of heads of 64 values).
    #[default]
    I16,
    /// Half precision.
    F16,
    /// Single precision: twice the memory.
    F32,
    /// Bytes with a scale in half precision for 32 values, as in Q8_0: little more than half the memory.
    Q8_0,
}

impl KvPrecision {
    /// Its name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            KvPrecision::I16 => "i16",
            KvPrecision::F16 => "f16",
            KvPrecision::F32 => "f32",
            KvPrecision::Q8_0 => "q8_0",
        }
    }

    /// Bytes of a page of one head.
    fn page_bytes(self, head_dim: usize) -> usize {
        match self {
            KvPrecision::I16 => {
                let (words, units) = integer_page_len(head_dim);
                2 * words + 4 * units
            }
            KvPrecision::F16 => 2 * page_len(head_dim),
            KvPrecision::F32 => 4 * page_len(head_dim),
            KvPrecision::Q8_0 => {
                let (quants, scales) = q8_page_len(head_dim);
                quants + 2 * scales
            }
        }
    }

    /// A page's bytes as what they hold.
    fn page(self, bytes: &[u8], head_dim: usize) -> PageRef<'_> {
        match self {
            KvPrecision::I16 => {
                let (words, units) = bytes.split_at(2 * integer_page_len(head_dim).0);
                PageRef::I16 { words: bytemuck::cast_slice(words), units: bytemuck::cast_slice(units) }
            }
            KvPrecision::F16 => PageRef::F16(bytemuck::cast_slice(bytes)),
            KvPrecision::F32 => PageRef::F32(bytemuck::cast_slice(bytes)),
            KvPrecision::Q8_0 => {
                let (quants, scales) = bytes.split_at(q8_page_len(head_dim).0);
                PageRef::Q8 { quants: bytemuck::cast_slice(quants), scales: bytemuck::cast_slice(scales) }
            }
        }
    }

    /// [`KvPrecision::page`] for writing.
    pub(crate) fn page_mut(self, bytes: &mut [u8], head_dim: usize) -> PageMut<'_> {
        match self {
            KvPrecision::I16 => {
                let (words, units) = bytes.split_at_mut(2 * integer_page_len(head_dim).0);
                PageMut::I16 {
                    words: bytemuck::cast_slice_mut(words),
                    units: bytemuck::cast_slice_mut(units),
                }
            }
            KvPrecision::F16 => PageMut::F16(bytemuck::cast_slice_mut(bytes)),
            KvPrecision::F32 => PageMut::F32(bytemuck::cast_slice_mut(bytes)),
            KvPrecision::Q8_0 => {
                let (quants, scales) = bytes.split_at_mut(q8_page_len(head_dim).0);
                PageMut::Q8 {
                    quants: bytemuck::cast_slice_mut(quants),
                    scales: bytemuck::cast_slice_mut(scales),
                }
            }
        }
    }
}

/// The pages of some layers: `[page][layer][head]`.
#[derive(Debug, Default)]
struct Store {
    layers: usize,
    /// One for each page number: page p lives in slab p, or in slab p mod ring.
    slabs: Vec<MmapMut>,
    /// Slabs kept, where a window bounds them.
    ring: Option<usize>,
}

impl Store {
    fn slab(&self, page: usize) -> usize {
        self.ring.map_or(page, |ring| page % ring)
    }

    /// Makes room for `pages` page numbers of `layer_bytes` each layer.
    fn reserve(&mut self, pages: usize, layer_bytes: usize) -> Result<()> {
        let wanted = self.ring.map_or(pages, |ring| pages.min(ring));
        let bytes = self.layers * layer_bytes;
        if bytes == 0 {
            return Ok(());
        }
        self.slabs.reserve_exact(wanted.saturating_sub(self.slabs.len()));
        while self.slabs.len() < wanted {
            let memory = |cause| Error::Memory { what: "the KV cache", bytes, cause };
            let slab = MmapMut::map_anon(bytes).map_err(memory)?;
            // A short conversation would pay for more memory than it fills.
            #[cfg(target_os = "linux")]
            if !self.slabs.is_empty() && bytes >= HUGE_PAGE {
                let _ = slab.advise(memmap2::Advice::HugePage);
            }
            self.slabs.push(slab);
        }
        Ok(())
    }
}

/// K and V of all positions of one sequence.
#[derive(Debug)]
pub struct KvCache {
    /// Of layers that see all positions, and of those that see a window.
    stores: [Store; 2],
    /// Of each layer its store and its place there.
    places: Vec<(usize, usize)>,
    precision: KvPrecision,
    heads: usize,
    head_dim: usize,
    page_bytes: usize,
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
        let mut stores = [Store::default(), Store { ring: window.map(|(_, ring)| ring), ..Store::default() }];
        let places = (0..config.layers).map(|layer| {
            let store = usize::from(config.layer_window(layer).is_some());
            stores[store].layers += 1;
            (store, stores[store].layers - 1)
        });
        let places = places.collect();
        let page_bytes = precision.page_bytes(config.head_dim);
        KvCache {
            stores,
            places,
            precision,
            heads: config.kv_heads,
            head_dim: config.head_dim,
            page_bytes,
            len: 0,
            window,
        }
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
    ///
    /// # Errors
    /// Where the system grants no more memory.
    pub(crate) fn reserve(&mut self, positions: usize) -> Result<()> {
        let layer_bytes = self.heads * self.page_bytes;
        self.stores.iter_mut().try_for_each(|store| store.reserve(positions.div_ceil(PAGE), layer_bytes))
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

    /// Page `page` (positions `page · 256 ..`) of a layer's head, which [`KvCache::reserve`] made room for.
    pub(crate) fn page(&self, layer: usize, head: usize, page: usize) -> PageRef<'_> {
        let (store, layer) = self.places[layer];
        let store = &self.stores[store];
        let at = (layer * self.heads + head) * self.page_bytes;
        self.precision.page(&store.slabs[store.slab(page)][at..at + self.page_bytes], self.head_dim)
    }

    /// Page `page` of all heads of a layer, for writing: heads side by side, [`KvCache::page_bytes`] each, to be seen
    /// through [`KvPrecision::page_mut`].
    pub(crate) fn heads_mut(&mut self, layer: usize, page: usize) -> &mut [u8] {
        let (store, layer) = self.places[layer];
        let store = &mut self.stores[store];
        let slab = store.slab(page);
        let layer_bytes = self.heads * self.page_bytes;
        &mut store.slabs[slab][layer * layer_bytes..(layer + 1) * layer_bytes]
    }

    /// How pages are stored.
    pub(crate) fn precision(&self) -> KvPrecision {
        self.precision
    }

    /// Bytes of one head's page.
    pub(crate) fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Bytes of all pages.
    pub(crate) fn bytes(&self) -> usize {
        self.stores.iter().flat_map(|store| &store.slabs).map(|slab| slab.len()).sum()
    }

    /// Bytes that one more position takes, for a cache of this shape.
    pub fn bytes_per_token(config: &Config, precision: KvPrecision) -> usize {
        config.layers * config.kv_heads * precision.page_bytes(config.head_dim) / PAGE
    }
}
