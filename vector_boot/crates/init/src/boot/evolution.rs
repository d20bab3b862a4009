//! The role `cortex`, which no manifest has to name: it is there where `vb.evolution` is on.
//!
//! A machine that does not evolve starts nothing for it, binds nothing and holds no memory.

use crate::params::Params;
use rts::manifest::{
    Address, FdName, Image, Listen, ListenKind, Manifest, Name, Pass, SERVICES_MAX, Service, Word,
};

/// Name, word and profile of the role.
const CORTEX: &str = "cortex";
/// Its socket.
const SOCKET: &str = "evolution.sock";
/// What its rings, a log's replay and two generations take is a tenth of it; the model's pages that it reads count
/// as well, and can be taken back.
const MEMORY_MAX_BYTES: u64 = 128 << 20;

/// Adds the role to a manifest that does not have it.
pub fn add_cortex(manifest: &mut Manifest, params: &Params) {
    let named = manifest.services.iter().any(|s| s.name.as_str() == CORTEX);
    if params.get("vb.evolution") != "on" || named || manifest.services.len() >= SERVICES_MAX {
        return;
    }
    if let Some(service) = cortex() {
        manifest.services.push(service);
    }
}

fn cortex() -> Option<Service> {
    let mut service = Service::new(Name::new(CORTEX)?, Image::VectorBoot);
    service.args.push(Word::new(CORTEX)?).ok()?;
    service.uid = Some(wire::Role::Cortex.uid());
    service.notify = true;
    service.data = true;
    service.tmp_bytes = 0;
    service.memory_max_bytes = MEMORY_MAX_BYTES;
    let listen = Listen {
        name: FdName::new(SOCKET)?,
        kind: ListenKind::UnixSeqpacket,
        address: Address::new(SOCKET)?,
        mode: 0o666,
    };
    service.listen.push(listen).ok()?;
    service.pass.push(Pass::Rts).ok()?;
    Some(service)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::CommandLine;

    #[test]
    fn the_role_is_there_where_it_is_switched_on_and_once() {
        for (line, more) in [("", 0), ("vb.evolution=off", 0), ("vb.evolution=on", 1)] {
            let params = Params::new([], line, CommandLine::Wins);
            let mut manifest = rts::manifest::default();
            let before = manifest.services.len();
            add_cortex(&mut manifest, &params);
            add_cortex(&mut manifest, &params);
            assert_eq!(manifest.services.len(), before + more, "{line}");
            assert!(manifest.check().is_ok(), "{line}");
        }
    }
}
