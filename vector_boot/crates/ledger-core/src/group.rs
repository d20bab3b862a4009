//! Groups: the events that became durable together, and the frame that ends them.

use crate::frame::{self, Chain, ENCODING_FIXED, Header, Reader, Writer};
use crate::{
    Body, CompactRange, ENCODING_POSTCARD, HEADER_BYTES, Hash, KIND_EVENT, KIND_GROUP, Leaf, Place,
    Superblock, padded, tenant_key, tenant_tag,
};
use alloc::vec::Vec;

/// Bytes of the fixed body: `count u32, bytes u32, head [32], tree size u64, root [32], trailer [8]`.
const BODY_BYTES: usize = 88;
/// Bytes of a group frame; it ends at the end of a sector.
pub const GROUP_FRAME_BYTES: usize = HEADER_BYTES + BODY_BYTES;
/// Room that a group begins with: it grows seldom, and what is not used of it costs nothing.
const BYTES_AT_FIRST: usize = 32 * 1024;
/// Last bytes of a group's last sector: a sector that ends so was written whole.
pub(crate) const TRAILER: &[u8; 8] = b"VBGROUP1";

/// Where a log stands: the state that the next event continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Last event, 0 for none.
    pub id: u64,
    /// Chain value there.
    pub chain: Hash,
    /// Tree over all events so far.
    pub tree: CompactRange,
}

impl Head {
    /// Before the first event.
    #[must_use]
    pub fn genesis(superblock: &Superblock) -> Self {
        Self {
            id: 0,
            chain: frame::genesis(&superblock.log_id),
            tree: CompactRange::default(),
        }
    }

    /// Takes one event frame in: its leaf.
    pub(crate) fn advance(
        &mut self,
        chain: &mut Chain,
        header: &Header,
        body: &[u8],
        tag: &[u8; 8],
    ) -> Leaf {
        let (value, leaf) = chain.leaf(header, body, tag);
        self.take(header.id, value, &leaf);
        leaf
    }

    /// Takes the next event in, by its chain value and leaf.
    pub(crate) fn take(&mut self, id: u64, chain: Hash, leaf: &Leaf) {
        (self.id, self.chain) = (id, chain);
        self.tree.push_leaf(leaf.hash);
    }
}

/// A group frame's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupFrame {
    /// Id of the group's last event.
    pub last_id: u64,
    /// Chain value before the group.
    pub previous: Hash,
    /// Events in the group.
    pub count: u32,
    /// Bytes from the group's first frame to the end of this one, padding included.
    pub bytes: u32,
    /// Chain value behind the group.
    pub chain: Hash,
    /// Tree size behind the group.
    pub tree_size: u64,
    /// Tree root behind the group.
    pub root: Hash,
}

impl GroupFrame {
    fn body(&self) -> [u8; BODY_BYTES] {
        let mut out = [0; BODY_BYTES];
        let mut w = Writer(&mut out);
        w.put(&self.count.to_le_bytes());
        w.put(&self.bytes.to_le_bytes());
        w.put(&self.chain);
        w.put(&self.tree_size.to_le_bytes());
        w.put(&self.root);
        w.put(TRAILER);
        out
    }

    /// Reads the group frame that `bytes` are, if its checksum holds at this place.
    #[must_use]
    pub fn decode(place: &Place, bytes: &[u8]) -> Option<Self> {
        let header = Header::read(bytes)?;
        let body = bytes.get(HEADER_BYTES..GROUP_FRAME_BYTES)?;
        if header.length as usize != GROUP_FRAME_BYTES
            || bytes.len() != GROUP_FRAME_BYTES
            || header.kind != KIND_GROUP
            || header.encoding != ENCODING_FIXED
            || header.flags != 0
            || header.reserved != 0
            || header.crc != frame::checksum(place, &header, body)
        {
            return None;
        }
        let mut r = Reader(body);
        let this = Self {
            last_id: header.id,
            previous: header.previous,
            count: u32::from_le_bytes(r.take()?),
            bytes: u32::from_le_bytes(r.take()?),
            chain: r.take()?,
            tree_size: u64::from_le_bytes(r.take()?),
            root: r.take()?,
        };
        (&r.take::<8>()? == TRAILER).then_some(this)
    }
}

/// Where a group frame ends that follows an event frame ending at `offset`: at the first sector end
/// that leaves room for it. Both count from the segment's start.
#[must_use]
pub fn group_frame_end(offset: u64, sector_bytes: u32) -> u64 {
    let sector = u64::from(sector_bytes).max(1);
    offset
        .saturating_add(GROUP_FRAME_BYTES as u64)
        .div_ceil(sector)
        .saturating_mul(sector)
}

/// What became of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Its id.
    pub id: u64,
    /// Chain value of its frame: its commit id.
    pub chain: Hash,
    /// Where its frame begins, from the segment's start.
    pub offset: u64,
    /// Hash of its leaf in the tree.
    pub leaf: Hash,
}

/// A moment of a [`GroupBuilder`].
pub struct GroupMark {
    head: Head,
    count: u32,
    bytes: usize,
}

/// Builds the bytes of one group. Nothing is final until they are durable: then [`Self::finish`]'s
/// head replaces the log's.
pub struct GroupBuilder {
    place: Place,
    sector_bytes: u32,
    tag_key: [u8; 32],
    bytes_max: u64,
    start: u64,
    previous: Hash,
    head: Head,
    count: u32,
    first: Option<(u64, Hash)>,
    chain: Chain,
    body: Vec<u8>,
    bytes: Vec<u8>,
    tenant: Option<(alloc::string::String, Hash)>,
}

impl GroupBuilder {
    /// A group that begins at `start` (a multiple of the sector) in the segment of `place`.
    #[must_use]
    pub fn new(superblock: &Superblock, place: Place, start: u64, head: Head) -> Self {
        let left = superblock.segment_bytes.saturating_sub(start);
        Self {
            place,
            sector_bytes: superblock.sector_bytes,
            tag_key: superblock.tag_key,
            bytes_max: superblock.group_bytes_max().min(left),
            start,
            previous: head.chain,
            head,
            count: 0,
            first: None,
            chain: Chain::new(),
            body: Vec::new(),
            bytes: Vec::with_capacity(BYTES_AT_FIRST),
            tenant: None,
        }
    }

    /// The id that the next event gets.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.head.id.saturating_add(1)
    }

    /// Events so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Id and chain value of its first event.
    #[must_use]
    pub fn first(&self) -> Option<(u64, Hash)> {
        self.first.filter(|_| self.count > 0)
    }

    /// Appends an event if the group has room for it; its tenant tag is filled in.
    pub fn push(&mut self, event: &Body<'_>) -> Option<Committed> {
        let id = self.next_id();
        if self
            .tenant
            .as_ref()
            .is_none_or(|(name, _)| name != event.tenant_id)
        {
            let key = tenant_key(&self.tag_key, event.tenant_id);
            self.tenant = Some((event.tenant_id.into(), key));
        }
        let key = self.tenant.as_ref().map(|(_, key)| key)?;
        let event = Body {
            tenant_tag: tenant_tag(key, id),
            ..*event
        };
        self.body.clear();
        self.body = postcard::to_extend(&event, core::mem::take(&mut self.body)).ok()?;
        let offset = self.start.checked_add(self.bytes.len() as u64)?;
        let frame = padded(HEADER_BYTES.checked_add(self.body.len())?);
        let end = group_frame_end(offset.checked_add(frame as u64)?, self.sector_bytes);
        if end.checked_sub(self.start)? > self.bytes_max {
            return None;
        }
        let header = frame::write(
            &mut self.bytes,
            &self.place,
            KIND_EVENT,
            ENCODING_POSTCARD,
            id,
            &self.head.chain,
            &self.body,
        )?;
        let leaf = self
            .head
            .advance(&mut self.chain, &header, &self.body, &event.tenant_tag);
        if self.count == 0 {
            self.first = Some((id, self.head.chain));
        }
        self.count = self.count.saturating_add(1);
        Some(Committed {
            id,
            chain: self.head.chain,
            offset,
            leaf: leaf.hash,
        })
    }

    /// Remembers the group as it is, so that a batch that does not fit goes back out whole.
    #[must_use]
    pub fn mark(&self) -> GroupMark {
        GroupMark {
            head: self.head.clone(),
            count: self.count,
            bytes: self.bytes.len(),
        }
    }

    /// Takes out what was pushed since the mark.
    pub fn rewind(&mut self, mark: GroupMark) {
        self.head = mark.head;
        self.count = mark.count;
        self.bytes.truncate(mark.bytes);
    }

    /// Ends the group: its bytes, a multiple of the sector, and the head behind it.
    #[must_use]
    pub fn finish(mut self) -> (Vec<u8>, Head) {
        let at = self.start.saturating_add(self.bytes.len() as u64);
        let end = group_frame_end(at, self.sector_bytes).saturating_sub(self.start);
        // `push` kept the group under GROUP_BYTES_MAX, which fits 32 bits and memory.
        let end = u32::try_from(end).unwrap_or(u32::MAX);
        self.bytes
            .resize((end as usize).saturating_sub(GROUP_FRAME_BYTES), 0);
        let group = GroupFrame {
            last_id: self.head.id,
            previous: self.previous,
            count: self.count,
            bytes: end,
            chain: self.head.chain,
            tree_size: self.head.tree.size(),
            root: self.head.tree.root(),
        };
        let _fits = frame::write(
            &mut self.bytes,
            &self.place,
            KIND_GROUP,
            ENCODING_FIXED,
            group.last_id,
            &group.previous,
            &group.body(),
        );
        (self.bytes, self.head)
    }
}
