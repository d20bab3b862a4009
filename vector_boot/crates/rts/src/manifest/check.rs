//! The rules between the fields of a manifest, and the order of starting.
//!
//! Pure: every rule names the field it refuses, its value and its limit. Start with [`Manifest::check`].

use core::fmt::{self, Debug, Display};
use core::net::SocketAddr;
use core::ops::RangeInclusive;

use heapless::Vec as Fixed;

use super::{
    FD_STORE_MAX, FdName, Image, ListenKind, Manifest, Name, Pass, Profile, Restart, SERVICES_MAX,
    Service,
};

/// Longest wait between restarts: an hour; a service that may rest longer is `restart = "never"`.
const BACKOFF_MS_LIMIT: u32 = 3_600_000;
/// A day without an end is healthy by any measure.
const BACKOFF_RESET_S_LIMIT: u32 = 86_400;
/// More ends than PID 1 can count in an hour-long window at its restart rate are no limit at all.
const INTENSITY_LIMIT: u32 = 10_000;
/// An hour.
const INTENSITY_S_LIMIT: u32 = 3_600;
/// Ten minutes: a service that starts or stops longer holds up the machine.
const TIMEOUT_MS_LIMIT: u32 = 600_000;
/// A watchdog below one heartbeat (100 ms) would fire on healthy services.
const WATCHDOG_MS: RangeInclusive<u32> = 100..=3_600_000;
/// Below 256 KiB a static program cannot even exec; above 1 PiB the number is a mistake.
const MEMORY_BYTES: RangeInclusive<u64> = (256 << 10)..=(1 << 50);
/// Below 64 KiB there is no room for a file; above 1 TiB the number is a mistake.
const TMP_BYTES: RangeInclusive<u64> = (64 << 10)..=(1 << 40);
/// The kernel's own PID_MAX_LIMIT on 64 bits.
const PIDS_LIMIT: u32 = 4_194_304;
/// cgroup v2: cpu.weight.
const CPU_WEIGHT: RangeInclusive<u16> = 1..=10_000;
/// Below ten seconds no machine is up; above a day a restart helps nobody.
const HEALTH_READY_S: RangeInclusive<u32> = 10..=86_400;
/// A failed core service is tried again every 30 s: with less than that it has had no second chance.
const HEALTH_FAILED_S: RangeInclusive<u32> = 30..=86_400;
/// A restart that did not help ten times will not.
const HEALTH_REBOOTS: RangeInclusive<u8> = 1..=10;
/// An hour: a start or stop that takes longer is none.
const EXTEND_MS_LIMIT: u32 = 3_600_000;
/// A serial line carries about 200 lines a second; a hundred thousand is no limit.
const LOG_RATE_LIMIT: u32 = 100_000;
/// Uids that docs/wire.md gives to roles of our two executables.
const UID_OURS: RangeInclusive<u32> = 901..=999;
/// Uids of users' services.
const UID_USERS: RangeInclusive<u32> = 30_000..=59_999;
/// PID 1 starts these itself.
const RESERVED_NAMES: [&str; 2] = ["init", "helper"];
/// These choose the package or the table itself, so a table cannot hold them.
const RESERVED_PARAMS: [&str; 2] = ["vb.rts", "vb.manifest"];

/// Why a manifest is refused. `field` is a path such as `service gateway: watchdog_ms`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The bytes are no compiled manifest.
    #[error("manifest magic: expected 56424d03 (compile the TOML with: vector_boot rts manifest)")]
    Magic,
    /// The bytes do not decode.
    #[error("manifest {field} at byte {at}: not in the compiled form")]
    Bytes {
        /// What was being read.
        field: &'static str,
        /// Where it began.
        at: usize,
    },
    /// A number is outside its range.
    #[error("manifest {field}: {found}, allowed {low} to {high}")]
    Range {
        /// Which number.
        field: String,
        /// Its value.
        found: u64,
        /// The smallest allowed.
        low: u64,
        /// The largest allowed.
        high: u64,
    },
    /// A value is not one of those allowed.
    #[error("manifest {field}: {found:?}, expected {expected}")]
    Value {
        /// Which field.
        field: String,
        /// Its value.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// A name stands twice where it must be unique.
    #[error("manifest {field}: {found} stands twice, expected unique")]
    Duplicate {
        /// Which field.
        field: String,
        /// The name.
        found: String,
    },
    /// Services wait for each other in a circle.
    #[error("manifest services: needs: a cycle {path}, expected none")]
    Cycle {
        /// The names along it, from the first in the manifest back to itself: `a -> b -> a`.
        path: String,
    },
    /// The TOML itself, in the parser's words.
    #[error("manifest source: {problem}")]
    Source {
        /// Line, column and problem on one line.
        problem: String,
    },
}

impl ManifestError {
    pub(super) fn bytes(field: &'static str, at: usize) -> Self {
        Self::Bytes { field, at }
    }

    pub(super) fn limit(field: impl Display, found: u64, high: u64) -> Self {
        Self::Range {
            field: field.to_string(),
            found,
            low: 0,
            high,
        }
    }

    pub(crate) fn value(field: impl Display, found: impl Display, expected: impl Display) -> Self {
        Self::Value {
            field: field.to_string(),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    fn duplicate(field: impl Display, found: impl Display) -> Self {
        Self::Duplicate {
            field: field.to_string(),
            found: found.to_string(),
        }
    }
}

impl Manifest {
    /// Checks every rule between fields; the types hold the rest.
    pub fn check(&self) -> Result<(), ManifestError> {
        if self.services.len() > SERVICES_MAX {
            return Err(ManifestError::limit(
                "services",
                self.services.len() as u64,
                SERVICES_MAX as u64,
            ));
        }
        unique("params", self.params.iter().map(|param| param.key.as_str()))?;
        for param in &self.params {
            if RESERVED_PARAMS.contains(&param.key.as_str()) {
                return Err(ManifestError::value(
                    "params",
                    &param.key,
                    "a key other than vb.rts and vb.manifest",
                ));
            }
        }
        unique("roots", self.roots.iter().map(|root| root.name.as_str()))?;
        for root in &self.roots {
            root_path(root.name.as_str(), root.path.as_str())?;
        }
        unique(
            "services",
            self.services.iter().map(|service| service.name.as_str()),
        )?;
        for service in &self.services {
            self.check_service(service)?;
        }
        self.check_health()?;
        self.check_uids()?;
        self.check_sockets()?;
        self.check_cycles()
    }

    fn check_service(&self, service: &Service) -> Result<(), ManifestError> {
        let name = &service.name;
        let field = |field: &'static str| Of {
            service: name,
            field,
        };
        if RESERVED_NAMES.contains(&name.as_str()) {
            return Err(ManifestError::value(
                "service name",
                name,
                "a name other than init and helper",
            ));
        }
        match &service.image {
            Image::Added(file) if file == "vb-services" => {
                return Err(ManifestError::value(
                    field("image"),
                    file,
                    "the image kind of vb-services",
                ));
            }
            Image::VectorBoot | Image::Services if service.args.is_empty() => {
                return Err(ManifestError::value(
                    field("args"),
                    "[]",
                    "a role word first",
                ));
            }
            Image::VectorBoot | Image::Services if service.profile != Profile::Foreign => {
                return Err(ManifestError::value(
                    field("profile"),
                    service.profile.as_str(),
                    "none where the image is ours: its role has its own",
                ));
            }
            Image::VectorBoot | Image::Services if service.network => {
                return Err(ManifestError::value(
                    field("network"),
                    "true",
                    "none where the image is ours: its role has its own",
                ));
            }
            Image::Added(_) if !service.is_confined() && !service.network => {
                return Err(ManifestError::value(
                    field("network"),
                    "false",
                    "true where profile is unconfined: without a cell it is in the machine's network",
                ));
            }
            Image::Added(_) if !service.is_confined() && service.tmp_bytes != 0 => {
                return Err(ManifestError::value(
                    field("tmp_bytes"),
                    service.tmp_bytes,
                    "0 where profile is unconfined: without a cell it has no /tmp of its own",
                ));
            }
            _ => {}
        }
        unique(
            field("needs"),
            service.needs.iter().map(|need| need.as_str()),
        )?;
        for need in &service.needs {
            if self.index_of(need).is_none() {
                return Err(ManifestError::value(
                    field("needs"),
                    need,
                    "the name of a service of this manifest",
                ));
            }
        }
        unique_by(field("pass"), &service.pass)?;
        for pass in &service.pass {
            if let Pass::Root(root) = pass
                && !self.roots.iter().any(|r| r.name == *root)
            {
                return Err(ManifestError::value(
                    field("pass"),
                    root,
                    "the name of a root of this manifest",
                ));
            }
        }
        unique_by(field("caps"), &service.caps)?;
        check_numbers(service)
    }

    fn check_uids(&self) -> Result<(), ManifestError> {
        let mut seen: Fixed<u32, SERVICES_MAX> = Fixed::new();
        for (index, service) in self.services.iter().enumerate() {
            let field = || format!("service {}: uid", service.name);
            let uid = self.uid(index).unwrap_or(0);
            let ours = !matches!(service.image, Image::Added(_)) && UID_OURS.contains(&uid);
            if !ours && !UID_USERS.contains(&uid) {
                let expected = match service.image {
                    Image::Added(_) => "30000 to 59999",
                    _ => "901 to 999 or 30000 to 59999",
                };
                return Err(ManifestError::value(field(), uid, expected));
            }
            if seen.contains(&uid) {
                return Err(ManifestError::duplicate(field(), uid));
            }
            // As long as the services, whose number was checked.
            let _ = seen.push(uid);
        }
        Ok(())
    }

    fn check_sockets(&self) -> Result<(), ManifestError> {
        let all = || {
            self.services
                .iter()
                .flat_map(|s| s.listen.iter().map(move |l| (s, l)))
        };
        for (service, listen) in all() {
            let field =
                |field: &str| format!("service {}: listen {}: {field}", service.name, listen.name);
            match listen.kind {
                ListenKind::Tcp => {
                    if listen.address.parse::<SocketAddr>().is_err() {
                        return Err(ManifestError::value(
                            field("address"),
                            &listen.address,
                            "ADDR:PORT",
                        ));
                    }
                    if listen.mode != 0 {
                        return Err(ManifestError::value(
                            field("mode"),
                            listen.mode,
                            "none for tcp",
                        ));
                    }
                }
                ListenKind::UnixStream | ListenKind::UnixSeqpacket => {
                    if FdName::new(listen.address.as_str()).is_none() {
                        return Err(ManifestError::value(
                            field("address"),
                            &listen.address,
                            FdName::RULE,
                        ));
                    }
                    if listen.address == "init.sock" {
                        return Err(ManifestError::value(
                            field("address"),
                            &listen.address,
                            "another: PID 1's own",
                        ));
                    }
                    let field =
                        format_args!("service {}: listen {}: mode", service.name, listen.name);
                    range(field, u64::from(listen.mode), &(0..=0o777))?;
                }
            }
        }
        unique(
            "listen names",
            all().map(|(_, listen)| listen.name.as_str()),
        )?;
        unique(
            "listen addresses",
            all().map(|(_, listen)| listen.address.as_str()),
        )
    }

    fn check_health(&self) -> Result<(), ManifestError> {
        let health = &self.health;
        let limit = |field: &str, found: u32, allowed: &RangeInclusive<u32>| match found {
            0 => Ok(()),
            _ => range(
                format_args!("health: {field}"),
                found.into(),
                &(u64::from(*allowed.start())..=u64::from(*allowed.end())),
            ),
        };
        limit("ready_s", health.ready_s, &HEALTH_READY_S)?;
        limit("failed_s", health.failed_s, &HEALTH_FAILED_S)?;
        let gates = health.ready_s > 0 || health.failed_s > 0;
        let allowed = if gates { HEALTH_REBOOTS } else { 0..=0 };
        range(
            "health: reboots_max",
            health.reboots_max.into(),
            &(u64::from(*allowed.start())..=u64::from(*allowed.end())),
        )?;
        unique(
            "health: services",
            health.services.iter().map(|n| n.as_str()),
        )?;
        for name in &health.services {
            let core = self.services.iter().any(|s| s.name == *name && s.core);
            if !core || health.failed_s == 0 {
                return Err(ManifestError::value(
                    "health: services",
                    name,
                    if core {
                        "none without failed_s"
                    } else {
                        "the name of a core service of this manifest"
                    },
                ));
            }
        }
        Ok(())
    }

    fn check_cycles(&self) -> Result<(), ManifestError> {
        let order = start_order(self);
        let stuck = |index: usize| !order.iter().any(|o| usize::from(*o) == index);
        let Some(first) = (0..self.services.len()).find(|index| stuck(*index)) else {
            return Ok(());
        };
        // Whoever is stuck needs one that is: following those from anywhere ends in a ring.
        let mut way: Fixed<usize, SERVICES_MAX> = Fixed::new();
        let mut at = first;
        while !way.contains(&at) && way.push(at).is_ok() {
            let needs = self.services.get(at).map(|s| s.needs.iter());
            let next =
                needs.and_then(|mut n| n.find_map(|n| self.index_of(n).filter(|i| stuck(*i))));
            at = next.unwrap_or(at);
        }
        let ring = way.iter().skip_while(|i| **i != at).chain([&at]);
        let names = ring
            .filter_map(|i| self.services.get(*i))
            .map(|s| s.name.as_str());
        Err(ManifestError::Cycle {
            path: names.collect::<std::vec::Vec<_>>().join(" -> "),
        })
    }
}

/// Indices of services whose needs come before them. Those on or behind a cycle are missing from it.
pub(super) fn start_order(manifest: &Manifest) -> Fixed<u8, SERVICES_MAX> {
    let mut order: Fixed<u8, SERVICES_MAX> = Fixed::new();
    // Each round takes at least one or nothing is left to take: at most 32 rounds of 32 services.
    for _ in 0..SERVICES_MAX {
        let before = order.len();
        for (index, service) in manifest.services.iter().enumerate() {
            let Ok(index) = u8::try_from(index) else {
                break;
            };
            let placed = |name: &str| {
                manifest
                    .index_of(name)
                    .is_some_and(|need| order.iter().any(|o| usize::from(*o) == need))
            };
            if !order.contains(&index) && service.needs.iter().all(|need| placed(need)) {
                // As long as the services, whose number was checked.
                let _ = order.push(index);
            }
        }
        if order.len() == before {
            break;
        }
    }
    order
}

fn check_numbers(service: &Service) -> Result<(), ManifestError> {
    let field = |field: &'static str| Of {
        service: &service.name,
        field,
    };
    let small = |name: &'static str, found: u32, low: u32, high: u32| {
        range(
            field(name),
            u64::from(found),
            &(u64::from(low)..=u64::from(high)),
        )
    };
    small(
        "backoff_ms_max",
        service.backoff_ms_max,
        0,
        BACKOFF_MS_LIMIT,
    )?;
    small(
        "backoff_ms_first",
        service.backoff_ms_first,
        0,
        service.backoff_ms_max,
    )?;
    small(
        "backoff_reset_s",
        service.backoff_reset_s,
        1,
        BACKOFF_RESET_S_LIMIT,
    )?;
    small("intensity_max", service.intensity_max, 0, INTENSITY_LIMIT)?;
    small("intensity_s", service.intensity_s, 1, INTENSITY_S_LIMIT)?;
    small(
        "start_timeout_ms",
        service.start_timeout_ms,
        1,
        TIMEOUT_MS_LIMIT,
    )?;
    small(
        "stop_timeout_ms",
        service.stop_timeout_ms,
        0,
        TIMEOUT_MS_LIMIT,
    )?;
    if service.watchdog_ms != 0 {
        small(
            "watchdog_ms",
            service.watchdog_ms,
            *WATCHDOG_MS.start(),
            *WATCHDOG_MS.end(),
        )?;
        if !service.notify {
            return Err(ManifestError::value(
                field("watchdog_ms"),
                service.watchdog_ms,
                "0 without notify",
            ));
        }
    }
    small("fd_store", service.fd_store.into(), 0, FD_STORE_MAX.into())?;
    if service.fd_store > 0 && !service.notify {
        return Err(ManifestError::value(
            field("fd_store"),
            service.fd_store,
            "0 without notify",
        ));
    }
    small("extend_ms_max", service.extend_ms_max, 0, EXTEND_MS_LIMIT)?;
    if service.memory_max_bytes != 0 {
        range(
            field("memory_max_bytes"),
            service.memory_max_bytes,
            &MEMORY_BYTES,
        )?;
    }
    if service.tmp_bytes != 0 {
        range(field("tmp_bytes"), service.tmp_bytes, &TMP_BYTES)?;
    }
    small("pids_max", service.pids_max, 0, PIDS_LIMIT)?;
    small(
        "cpu_weight",
        u32::from(service.cpu_weight),
        u32::from(*CPU_WEIGHT.start()),
        u32::from(*CPU_WEIGHT.end()),
    )?;
    small("log_rate", service.log_rate, 0, LOG_RATE_LIMIT)?;
    if service.restart == Restart::Never && service.core {
        return Err(ManifestError::value(
            field("core"),
            "true",
            "false where restart is never",
        ));
    }
    Ok(())
}

/// A root lies at an absolute path or below the data; neither may climb.
fn root_path(name: &str, path: &str) -> Result<(), ManifestError> {
    let inner = path.strip_prefix('/').unwrap_or(path);
    if inner.is_empty() || inner.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(ManifestError::value(
            format!("root {name}: path"),
            path,
            "a path without empty, . and .. parts",
        ));
    }
    Ok(())
}

fn range(
    field: impl Display,
    found: u64,
    allowed: &RangeInclusive<u64>,
) -> Result<(), ManifestError> {
    if allowed.contains(&found) {
        return Ok(());
    }
    Err(ManifestError::Range {
        field: field.to_string(),
        found,
        low: *allowed.start(),
        high: *allowed.end(),
    })
}

/// A field of a service, put into words only when it is refused: PID 1 runs these checks while it boots.
#[derive(Clone, Copy)]
struct Of<'a> {
    service: &'a Name,
    field: &'static str,
}

impl Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service {}: {}", self.service, self.field)
    }
}

/// Refuses the first value that stands twice in a short list.
fn unique_by<T: PartialEq + Debug>(field: impl Display, values: &[T]) -> Result<(), ManifestError> {
    for (index, value) in values.iter().enumerate() {
        if values.iter().take(index).any(|earlier| earlier == value) {
            return Err(ManifestError::duplicate(field, format_args!("{value:?}")));
        }
    }
    Ok(())
}

/// Refuses the first text that stands twice; quadratic over lists of at most 128.
fn unique<T: AsRef<str>>(
    field: impl Display,
    texts: impl Iterator<Item = T> + Clone,
) -> Result<(), ManifestError> {
    for (index, text) in texts.clone().enumerate() {
        if texts
            .clone()
            .take(index)
            .any(|earlier| earlier.as_ref() == text.as_ref())
        {
            return Err(ManifestError::duplicate(field, text.as_ref()));
        }
    }
    Ok(())
}
