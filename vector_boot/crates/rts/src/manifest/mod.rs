//! The manifest: which services the machine runs, what each may hold, and the machine's defaults.
//!
//! Owns the types, their bounded binary form ([`Manifest::decode`], [`Manifest::encode`]) and the default table.
//! Start with [`Service`]; [`Manifest::check`] lists every rule between the fields.
//! A manifest that was decoded is valid: PID 1 builds its tables from it without further checks.
//!
//! Never here: files, clocks, processes. The TOML form is in [`source`] and on the host only.

mod check;
#[cfg(any(test, feature = "source"))]
pub mod source;
mod text;

use heapless::Vec as Fixed;
use serde::{Deserialize, Serialize};

pub use check::ManifestError;
pub use text::{
    ADDRESS_BYTES_MAX, Address, FdName, Key, NAME_BYTES_MAX, Name, WORD_BYTES_MAX, Word,
};

/// Services of one machine: PID 1's tables are this long, and a board with more wants a second machine.
pub const SERVICES_MAX: usize = 32;
/// Folders that the gateway may show; each is one descriptor.
pub const ROOTS_MAX: usize = 8;
/// Default kernel parameters; there are fewer parameters than this.
pub const PARAMS_MAX: usize = 16;
/// Words of one command line.
pub const ARGS_MAX: usize = 8;
/// Services that one service waits for.
pub const NEEDS_MAX: usize = 8;
/// Listening sockets of one service.
pub const LISTEN_MAX: usize = 4;
/// Descriptors that PID 1 passes to one service beside its sockets.
pub const PASS_MAX: usize = 8;
/// Capabilities of one service; only two exist in [`Cap`] today.
pub const CAPS_MAX: usize = 4;
/// Descriptors that PID 1 keeps for one service over its restarts: a socket a worker, and PID 1's own table is bounded.
pub const FD_STORE_MAX: u8 = 16;
/// Services that [`Health::services`] names.
pub const HEALTH_SERVICES_MAX: usize = 8;
/// Longest binary form: 32 services with every field full are 73 KiB (a test holds it to that).
pub const MANIFEST_BYTES_MAX: usize = 80 * 1024;
/// First bytes of the binary form: a name, and the version of the layout behind it.
pub const MANIFEST_MAGIC: [u8; 4] = *b"VBM\x03";
/// Uid of the first service that names none; the index in the manifest is added.
pub const UID_ASSIGNED_FIRST: u32 = 30_000;

/// The whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The machine's name until `vb.hostname=` says another.
    pub hostname: Name,
    /// Default kernel parameters; the command line wins over them.
    pub params: Fixed<Param, PARAMS_MAX>,
    /// Folders of the gateway.
    pub roots: Fixed<Root, ROOTS_MAX>,
    /// When the tensor blocks are hashed.
    pub verify: Verify,
    /// Whether the `model` role answers requests.
    pub model_serve: bool,
    /// When the machine as a whole counts as ill, and is restarted.
    pub health: Health,
    /// Services in the order of the source; at most [`SERVICES_MAX`].
    ///
    /// On the heap, because 32 of them inline are 64 KiB that would be copied through PID 1's stack
    /// for the five or six that a machine really has.
    pub services: Vec<Service>,
}

/// Everything but the services, in the order of the binary form.
#[derive(Serialize, Deserialize)]
struct Head {
    hostname: Name,
    params: Fixed<Param, PARAMS_MAX>,
    roots: Fixed<Root, ROOTS_MAX>,
    verify: Verify,
    model_serve: bool,
    health: Health,
}

/// The health gate: when a machine that does not do its work is restarted. Off unless a limit is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// From the handoff to `ready` at most; 0 is without limit.
    pub ready_s: u32,
    /// How long a core service may keep failing; 0 is without limit.
    pub failed_s: u32,
    /// Which core services [`Health::failed_s`] means; none are all.
    pub services: Fixed<Name, HEALTH_SERVICES_MAX>,
    /// Restarts of the machine in a row before `vb.emergency`.
    pub reboots_max: u8,
}

/// One supervised program. Its name, not its program's, is its identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Unique among the services; `init` and `helper` are PID 1's own.
    pub name: Name,
    /// Which program runs.
    pub image: Image,
    /// Words behind the program's name; the first is the role where the program is ours.
    pub args: Fixed<Word, ARGS_MAX>,
    /// Its uid; `None` is [`UID_ASSIGNED_FIRST`] plus the index. Read it through [`Manifest::uid`].
    pub uid: Option<u32>,
    /// Services that must be ready before this one starts.
    pub needs: Fixed<Name, NEEDS_MAX>,
    /// Which ends are followed by a restart.
    pub restart: Restart,
    /// A core service is tried for ever; another is given up after its intensity.
    pub core: bool,
    /// Wait before the second restart in a row, doubled from then on; 0 is no wait.
    pub backoff_ms_first: u32,
    /// The longest wait.
    pub backoff_ms_max: u32,
    /// After this long without an end the wait begins anew.
    pub backoff_reset_s: u32,
    /// Ends within [`Service::intensity_s`] after which it has failed; 0 is without limit.
    pub intensity_max: u32,
    /// The window of [`Service::intensity_max`].
    pub intensity_s: u32,
    /// From exec to readiness.
    pub start_timeout_ms: u32,
    /// From SIGTERM to SIGKILL.
    pub stop_timeout_ms: u32,
    /// Longest silence between two `WATCHDOG=1`; 0 is no watchdog.
    pub watchdog_ms: u32,
    /// Ready when it says `READY=1`; without it when exec succeeded.
    pub notify: bool,
    /// `memory.max` of its cgroup; 0 is without limit.
    pub memory_max_bytes: u64,
    /// `pids.max` of its cgroup; 0 is without limit.
    pub pids_max: u32,
    /// `cpu.weight` of its cgroup, 1 to 10,000.
    pub cpu_weight: u16,
    /// Sockets that PID 1 binds for it and keeps over its restarts.
    pub listen: Fixed<Listen, LISTEN_MAX>,
    /// Further descriptors that it gets.
    pub pass: Fixed<Pass, PASS_MAX>,
    /// Capabilities that it keeps.
    pub caps: Fixed<Cap, CAPS_MAX>,
    /// Whether it gets a folder of its own on the data disk (`VB_DATA`).
    pub data: bool,
    /// Who else is restarted when it ends.
    pub strategy: Strategy,
    /// Lines a second that its output may have; 0 is without limit.
    pub log_rate: u32,
    /// What an added program is confined as; the programs that are ours have their role's.
    pub profile: Profile,
    /// Whether an added program is in the machine's network; the programs that are ours have their role's.
    pub network: bool,
    /// Size of its own `/tmp`; 0 is none.
    pub tmp_bytes: u64,
    /// Descriptors that it may leave with PID 1 (`FDSTORE=1`) to find them again after a restart.
    pub fd_store: u8,
    /// How much longer than its limits a start or a stop may take that says so (`EXTEND_TIMEOUT_USEC=`).
    pub extend_ms_max: u32,
}

impl Service {
    /// A service with the documented defaults, which the TOML form uses too.
    pub fn new(name: Name, image: Image) -> Self {
        Self {
            name,
            image,
            args: Fixed::new(),
            uid: None,
            needs: Fixed::new(),
            restart: Restart::Always,
            core: false,
            backoff_ms_first: 100,
            backoff_ms_max: 30_000,
            backoff_reset_s: 60,
            intensity_max: 5,
            intensity_s: 60,
            start_timeout_ms: 10_000,
            stop_timeout_ms: 5_000,
            watchdog_ms: 0,
            notify: false,
            memory_max_bytes: 0,
            pids_max: 64,
            cpu_weight: 100,
            listen: Fixed::new(),
            pass: Fixed::new(),
            caps: Fixed::new(),
            data: false,
            strategy: Strategy::OneForOne,
            log_rate: 200,
            profile: Profile::Foreign,
            network: false,
            tmp_bytes: 16 << 20,
            fd_store: 0,
            extend_ms_max: 60_000,
        }
    }

    /// Whether it has a cell, Landlock and filters.
    #[must_use]
    pub fn is_confined(&self) -> bool {
        self.profile != Profile::Unconfined
    }
}

/// The program of a service. New kinds are added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Image {
    /// The binary section, or `/init` itself.
    VectorBoot,
    /// The section `vb-services`, or the file beside `/init`.
    Services,
    /// A file added with `--add NAME=FILE`; it runs through the `jail` role.
    Added(Name),
}

impl Image {
    /// The image's name in the source form and in the section table.
    pub fn as_str(&self) -> &str {
        match self {
            Self::VectorBoot => "vector_boot",
            Self::Services => "vb-services",
            Self::Added(name) => name.as_str(),
        }
    }
}

/// The list of system calls that an added program is held to. New ones are added at the end.
///
/// It never adds anything: uid, descriptors and folders stay those of a user's service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// What a static program of any language needs.
    Foreign,
    /// The role `ledger`.
    Ledger,
    /// The role `capacity`.
    Capacity,
    /// The role `gateway`.
    Gateway,
    /// The role `console`.
    Console,
    /// The role `net`.
    Net,
    /// None: no cell, no Landlock, no filter. Uid, cgroup, limits, empty capability sets and `no_new_privs` stay.
    Unconfined,
}

impl Profile {
    /// Its name in the source form and in the crate `jail`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::Ledger => "ledger",
            Self::Capacity => "capacity",
            Self::Gateway => "gateway",
            Self::Console => "console",
            Self::Net => "net",
            Self::Unconfined => "unconfined",
        }
    }
}

/// Which ends are followed by a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Every end but one that was asked for.
    Always,
    /// A signal, a timeout or a status other than 0.
    OnFailure,
    /// None.
    Never,
}

/// Who is restarted with a service that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// It alone; its clients reconnect.
    OneForOne,
    /// It and those that need it, directly or not.
    RestForOne,
    /// Every service.
    OneForAll,
}

/// When the tensor blocks are checked against the block list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// By the helper's scrub, after the services are up.
    Lazy,
    /// All of them before anything starts.
    Eager,
}

/// A socket that PID 1 binds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Its name in `LISTEN_FDNAMES`.
    pub name: FdName,
    /// Its family and type.
    pub kind: ListenKind,
    /// Where it is bound.
    pub address: Address,
    /// Permission bits of a Unix socket's file; 0 for TCP.
    pub mode: u16,
}

/// Family and type of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenKind {
    /// TCP over IPv4 or IPv6.
    Tcp,
    /// `AF_UNIX`, `SOCK_STREAM`.
    UnixStream,
    /// `AF_UNIX`, `SOCK_SEQPACKET`.
    UnixSeqpacket,
}

/// A descriptor that PID 1 passes; see docs/wire.md for what each is. New kinds are added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pass {
    /// The ledger's log: a block device or a file.
    Log,
    /// The package.
    Rts,
    /// The boot token.
    Token,
    /// The sensor page, read-only.
    Sensors,
    /// The service's own page of counters.
    Stats,
    /// A `/proc` folder.
    Proc,
    /// The serial line.
    Tty,
    /// The second console, for programs.
    Machine,
    /// Every root, each as `root.NAME`.
    Roots,
    /// One root, as `root.NAME`.
    Root(Name),
}

impl Pass {
    /// Reads the source form: `log`, `stats`, `roots`, `root.work`.
    pub fn from_source(text: &str) -> Option<Self> {
        Some(match text {
            "log" => Self::Log,
            "rts" => Self::Rts,
            "token" => Self::Token,
            "sensors" => Self::Sensors,
            "stats" => Self::Stats,
            "proc" => Self::Proc,
            "tty" => Self::Tty,
            "machine" => Self::Machine,
            "roots" => Self::Roots,
            _ => Self::Root(Name::new(text.strip_prefix("root.")?)?),
        })
    }

    /// The kind's name; a single root's own name is left out.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Rts => "rts",
            Self::Token => "token",
            Self::Sensors => "sensors",
            Self::Stats => "stats",
            Self::Proc => "proc",
            Self::Tty => "tty",
            Self::Machine => "machine",
            Self::Roots => "roots",
            Self::Root(_) => "root",
        }
    }
}

/// A capability that a service may keep. New ones are added at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cap {
    /// `CAP_NET_ADMIN`.
    NetAdmin,
    /// `CAP_NET_RAW`.
    NetRaw,
}

/// A folder that the gateway's tools may see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Its name in paths and in `LISTEN_FDNAMES` (`root.NAME`).
    pub name: Name,
    /// Where it lies: absolute, or relative to the folder of the data.
    /// A disk whose partition name is the root's name takes its place.
    pub path: Word,
    /// Whether tools may write.
    pub mode: RootMode,
}

/// Whether tools may write below a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootMode {
    /// Reading and writing.
    Rw,
    /// Reading only.
    Ro,
}

/// A default kernel parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Param {
    /// `vb.` and its name.
    pub key: Key,
    /// Its value.
    pub value: Word,
}

impl Manifest {
    /// A machine without services.
    pub fn empty(hostname: Name) -> Self {
        Self {
            hostname,
            params: Fixed::new(),
            roots: Fixed::new(),
            verify: Verify::Lazy,
            model_serve: false,
            health: Health::default(),
            services: Vec::new(),
        }
    }

    /// Reads the binary form and checks every rule.
    ///
    /// Errors: anything that is not exactly one valid manifest, trailing bytes included.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::limit(
                "manifest bytes",
                bytes.len() as u64,
                MANIFEST_BYTES_MAX as u64,
            ));
        }
        let body = bytes
            .strip_prefix(&MANIFEST_MAGIC)
            .ok_or(ManifestError::Magic)?;
        let at = |rest: &[u8]| bytes.len().saturating_sub(rest.len());
        let (head, body) = postcard::take_from_bytes::<Head>(body)
            .map_err(|_| ManifestError::bytes("head", at(body)))?;
        let (count, mut body) = body
            .split_first()
            .ok_or_else(|| ManifestError::bytes("services", at(body)))?;
        if usize::from(*count) > SERVICES_MAX {
            return Err(ManifestError::limit(
                "services",
                u64::from(*count),
                SERVICES_MAX as u64,
            ));
        }
        let mut services = Vec::with_capacity(usize::from(*count));
        for _ in 0..*count {
            let (service, rest) = postcard::take_from_bytes::<Service>(body)
                .map_err(|_| ManifestError::bytes("service", at(body)))?;
            services.push(service);
            body = rest;
        }
        if !body.is_empty() {
            return Err(ManifestError::bytes("trailing bytes", at(body)));
        }
        let Head {
            hostname,
            params,
            roots,
            verify,
            model_serve,
            health,
        } = head;
        let manifest = Self {
            hostname,
            params,
            roots,
            verify,
            model_serve,
            health,
            services,
        };
        manifest.check()?;
        Ok(manifest)
    }

    /// Writes the binary form; the same manifest always gives the same bytes.
    ///
    /// Errors: a rule that the manifest breaks, so that what was encoded can be decoded.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        self.check()?;
        let head = Head {
            hostname: self.hostname.clone(),
            params: self.params.clone(),
            roots: self.roots.clone(),
            verify: self.verify,
            model_serve: self.model_serve,
            health: self.health.clone(),
        };
        let full = |_| ManifestError::bytes("encoding", 0);
        let mut bytes = postcard::to_extend(&head, MANIFEST_MAGIC.to_vec()).map_err(full)?;
        // At most 32 by the check above: one byte is also postcard's length of a sequence.
        bytes.push(u8::try_from(self.services.len()).unwrap_or(u8::MAX));
        for service in &self.services {
            bytes = postcard::to_extend(service, bytes).map_err(full)?;
        }
        Ok(bytes)
    }

    /// The uid of the service at `index`: its own, or the assigned one.
    pub fn uid(&self, index: usize) -> Option<u32> {
        let service = self.services.get(index)?;
        let assigned = UID_ASSIGNED_FIRST.saturating_add(u32::try_from(index).ok()?);
        Some(service.uid.unwrap_or(assigned))
    }

    /// The place of a service in [`Manifest::services`].
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.services
            .iter()
            .position(|service| service.name == *name)
    }

    /// Indices in an order in which every service comes behind those that it needs; else in source order.
    pub fn start_order(&self) -> Fixed<u8, SERVICES_MAX> {
        check::start_order(self)
    }
}

/// The compiled default table; `default.toml` is its source and a test keeps the two equal.
const DEFAULT: &[u8] = include_bytes!("../../default.manifest");

/// The table of a machine whose package brings none.
pub fn default() -> Manifest {
    // The fallback is for the types only: a test decodes these very bytes.
    Manifest::decode(DEFAULT).unwrap_or_else(|_| Manifest::empty(Name::fallback()))
}

#[cfg(test)]
mod tests;
