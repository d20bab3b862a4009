//! What an event's frame proves by itself, wherever it stands in the chain: the costly part of a
//! verification, which any thread may work out before the events are taken in their order.
//!
//! A frame states the chain value before it, so its own can be had without reading what came before;
//! that the two are one chain is the [`crate::Verifier`]'s to see. Start with [`Inspector::inspect`].

use crate::frame::{self, Chain, Header};
use crate::verify::FaultKind;
use crate::{
    Body, ENCODING_POSTCARD, HEADER_BYTES, Hash, KIND_EVENT, Leaf, Place, Superblock, padded,
    rules, tenant_key, tenant_tag,
};
use alloc::collections::BTreeMap;
use alloc::string::String;

/// Tenants whose keys are kept at a time: more than a machine has at work, and a few kilobytes.
const TENANTS_MAX: usize = 256;

/// What a frame proves by itself.
#[derive(Debug, Clone, Copy)]
pub struct Inspected {
    /// Where it was taken to lie: it proves nothing elsewhere.
    pub(crate) place: Place,
    /// What is wrong with the frame, before its turn in the chain is looked at.
    pub(crate) frame: Option<FaultKind>,
    /// What it says, or what is wrong with that.
    pub(crate) event: Result<Proven, FaultKind>,
}

impl Inspected {
    /// Whether the frame itself holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.frame.is_none() && self.event.is_ok()
    }
}

/// Chain value and leaf of an event, if the frame's previous chain value is the one before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Proven {
    pub chain: Hash,
    pub leaf: Leaf,
}

/// Works out what frames prove.
pub struct Inspector {
    tag_key: [u8; 32],
    chain: Chain,
    tenants: BTreeMap<String, Hash>,
    /// Of the segment that was looked at last: what its frames' checksums begin with.
    seed: Option<(Place, crc32fast::Hasher)>,
}

impl Inspector {
    /// For the frames of a log.
    #[must_use]
    pub fn new(superblock: &Superblock) -> Self {
        Self {
            tag_key: superblock.tag_key,
            chain: Chain::new(),
            tenants: BTreeMap::new(),
            seed: None,
        }
    }

    /// Looks at the frame at the start of `bytes`; `None` if it is not there to its end.
    #[must_use]
    pub fn inspect(&mut self, place: &Place, bytes: &[u8]) -> Option<Inspected> {
        Some(self.look(place, bytes)?.0)
    }

    /// As [`Self::inspect`], with the event where it decodes.
    pub(crate) fn look<'b>(
        &mut self,
        place: &Place,
        bytes: &'b [u8],
    ) -> Option<(Inspected, Option<Body<'b>>)> {
        let header = Header::read(bytes)?;
        let length = header.length as usize;
        let (frame, padding) = bytes.get(..padded(length))?.split_at_checked(length)?;
        let body = frame.get(HEADER_BYTES..)?;
        let inspected = |frame, event| Inspected {
            place: *place,
            frame,
            event,
        };
        if let Some(kind) = self.frame_fault(place, &header, frame) {
            return Some((inspected(Some(kind), Err(kind)), None));
        }
        let event = Body::decode(body);
        let proven = match &event {
            _ if padding.iter().any(|b| *b != 0) => Err(FaultKind::Padding),
            None => Err(FaultKind::Body),
            Some(event) => self.prove(&header, body, event),
        };
        Some((inspected(None, proven), event))
    }

    fn prove(
        &mut self,
        header: &Header,
        body: &[u8],
        event: &Body<'_>,
    ) -> Result<Proven, FaultKind> {
        rules::stored(event, header.id).map_err(FaultKind::Rule)?;
        if tenant_tag(&self.key_of(event.tenant_id), header.id) != event.tenant_tag {
            return Err(FaultKind::TenantTag);
        }
        let (chain, leaf) = self.chain.leaf(header, body, &event.tenant_tag);
        Ok(Proven { chain, leaf })
    }

    fn key_of(&mut self, tenant: &str) -> Hash {
        if let Some(key) = self.tenants.get(tenant) {
            return *key;
        }
        if self.tenants.len() >= TENANTS_MAX {
            self.tenants.clear();
        }
        let key = tenant_key(&self.tag_key, tenant);
        self.tenants.insert(tenant.into(), key);
        key
    }

    fn frame_fault(&mut self, place: &Place, header: &Header, frame: &[u8]) -> Option<FaultKind> {
        let known = self.seed.take().filter(|(of, _)| of == place);
        let (_, seed) = self
            .seed
            .insert(known.unwrap_or_else(|| (*place, place.seeded())));
        if frame::checksum_of(seed, frame) != Some(header.crc) {
            return Some(FaultKind::Checksum);
        }
        let fields = [
            (header.kind == KIND_EVENT, "kind"),
            (header.encoding == ENCODING_POSTCARD, "encoding"),
            (header.flags == 0, "flags"),
            (header.reserved == 0, "reserved"),
        ];
        let bad = fields.into_iter().find(|(holds, _)| !holds);
        bad.map(|(_, field)| FaultKind::Header(field))
    }
}
