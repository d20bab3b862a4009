//! The TOML form of the manifest, read on the host only.
//!
//! Every key has the name of the field that it fills; unknown keys are refused by name and line.
//! Start with [`parse`]. What is left out takes the default of [`Service::new`].

use std::collections::BTreeMap;

use heapless::Vec as Fixed;
use serde::Deserialize;

use super::{
    ARGS_MAX, Address, Cap, FdName, Health, Image, Key, Listen, ListenKind, Manifest,
    ManifestError, Name, Param, Pass, Profile, Restart, Root, RootMode, Service, Strategy, Verify,
    Word,
};

/// Longest source: a full table with comments is far smaller.
pub const SOURCE_BYTES_MAX: usize = 256 * 1024;

/// Reads a manifest's TOML and checks every rule.
///
/// Errors name the field, or the line where the TOML itself is wrong.
pub fn parse(text: &str) -> Result<Manifest, ManifestError> {
    if text.len() > SOURCE_BYTES_MAX {
        return Err(ManifestError::limit(
            "source bytes",
            text.len() as u64,
            SOURCE_BYTES_MAX as u64,
        ));
    }
    let source: Source = toml::from_str(text).map_err(|error| ManifestError::Source {
        problem: one_line(text, &error),
    })?;
    let manifest = source.manifest()?;
    manifest.check()?;
    Ok(manifest)
}

/// The parser's message without its drawing of the line, which would take several lines.
fn one_line(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(0, |span| {
        text.get(..span.start)
            .map_or(0, |before| before.matches('\n').count())
            + 1
    });
    let message = error.message().replace('\n', ", ");
    match suggestion(&message) {
        Some((unknown, meant)) => {
            format!("line {line}: unknown {unknown}: did you mean `{meant}`?")
        }
        None => format!("line {line}: {message}"),
    }
}

/// Of "unknown field `hostnam`, expected one of `extends`, `hostname`": the first words, and what was probably meant.
fn suggestion(message: &str) -> Option<(&str, &str)> {
    /// Two slips of the hand; a third makes another word.
    const SLIPS_MAX: usize = 2;
    let (unknown, expected) = message.strip_prefix("unknown ")?.split_once(", expected")?;
    let wrong = unknown.split('`').nth(1)?;
    let known = expected.split('`').skip(1).step_by(2);
    let (slips, meant) = known.map(|word| (slips(wrong, word), word)).min()?;
    (slips <= SLIPS_MAX && slips < wrong.len()).then_some((unknown, meant))
}

/// Letters to change, add or leave out, or neighbours to swap, to make one word of the other.
fn slips(a: &str, b: &str) -> usize {
    let mut rows: [Vec<usize>; 2] = [vec![], (0..=b.chars().count()).collect()];
    let mut before = None;
    for (i, x) in a.chars().enumerate() {
        let [older, old] = &rows;
        let mut row = vec![i + 1];
        let mut left = None;
        for (j, y) in b.chars().enumerate() {
            let of = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX - 1);
            let swapped = before == Some(y) && left == Some(x);
            let swap = if swapped {
                of(older, j - 1)
            } else {
                usize::MAX - 1
            };
            let change = of(old, j) + usize::from(x != y);
            row.push(
                change
                    .min(swap + 1)
                    .min(of(old, j + 1) + 1)
                    .min(of(&row, j) + 1),
            );
            left = Some(y);
        }
        before = Some(x);
        let [_, old] = rows;
        rows = [old, row];
    }
    let [_, last] = rows;
    last.last().copied().unwrap_or(0)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    extends: Option<Extends>,
    hostname: Option<String>,
    #[serde(default)]
    params: BTreeMap<String, toml::Value>,
    verify: Option<Verify>,
    model_serve: Option<bool>,
    health: Option<SourceHealth>,
    audit: Option<SourceAudit>,
    witness: Option<SourceWitness>,
    #[serde(default)]
    root: Vec<SourceRoot>,
    #[serde(default)]
    service: Vec<SourceService>,
}

/// The table that a source begins with, where it does not begin with nothing.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Extends {
    /// [`super::default`].
    Default,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceHealth {
    ready_s: Option<u32>,
    failed_s: Option<u32>,
    #[serde(default)]
    services: Vec<String>,
    reboots_max: Option<u8>,
}

/// Who reads what calls were about: words for the services that record it, so that the compiled form knows nothing
/// of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceAudit {
    #[serde(default)]
    recipients: Vec<String>,
    paths: Option<AuditPaths>,
}

/// Who signs the log's checkpoints beside the device: a service of its own, since the ledger has no network.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceWitness {
    url: String,
    key: String,
    every_s: Option<u32>,
}

/// What is written of a call's parameters.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum AuditPaths {
    Clear,
    Sealed,
    Off,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceRoot {
    name: String,
    path: String,
    mode: RootMode,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceListen {
    name: String,
    kind: ListenKind,
    address: Option<String>,
    mode: Option<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceService {
    name: String,
    image: String,
    #[serde(default)]
    args: Vec<String>,
    uid: Option<u32>,
    #[serde(default)]
    needs: Vec<String>,
    restart: Option<Restart>,
    core: Option<bool>,
    backoff_ms_first: Option<u32>,
    backoff_ms_max: Option<u32>,
    backoff_reset_s: Option<u32>,
    intensity_max: Option<u32>,
    intensity_s: Option<u32>,
    start_timeout_ms: Option<u32>,
    stop_timeout_ms: Option<u32>,
    watchdog_ms: Option<u32>,
    notify: Option<bool>,
    memory_max_bytes: Option<u64>,
    pids_max: Option<u32>,
    cpu_weight: Option<u16>,
    #[serde(default)]
    listen: Vec<SourceListen>,
    #[serde(default)]
    pass: Vec<String>,
    #[serde(default)]
    caps: Vec<Cap>,
    data: Option<bool>,
    strategy: Option<Strategy>,
    log_rate: Option<u32>,
    profile: Option<Profile>,
    network: Option<bool>,
    tmp_bytes: Option<u64>,
    fd_store: Option<u8>,
    extend_ms_max: Option<u32>,
}

/// The machine's name where the manifest gives none.
const HOSTNAME: &str = "vector";
/// A Unix socket that says nothing else is open to its own uid and to root.
const LISTEN_MODE: u16 = 0o600;
/// Restarts of a machine with a health gate that says nothing else.
const REBOOTS_MAX: u8 = 3;
/// Each adds a wrapped key of 107 characters to every row that is sealed: `ledger_core::sealed::RECIPIENTS_MAX`.
const AUDIT_RECIPIENTS_MAX: usize = 4;
/// `wire::Role::Witness`'s.
const WITNESS_UID: u32 = 909;
/// More often than once a minute is a burden to a public witness; rarer than hourly, the serial line says more.
const WITNESS_EVERY_S: core::ops::RangeInclusive<u32> = 60..=3600;

impl Source {
    fn manifest(self) -> Result<Manifest, ManifestError> {
        let mut manifest = match self.extends {
            Some(Extends::Default) => super::default(),
            None => Manifest::empty(name("hostname", HOSTNAME)?),
        };
        if let Some(hostname) = &self.hostname {
            manifest.hostname = name("hostname", hostname)?;
        }
        manifest.verify = self.verify.unwrap_or(manifest.verify);
        manifest.model_serve = self.model_serve.unwrap_or(manifest.model_serve);
        if let Some(health) = self.health {
            manifest.health = health.health()?;
        }
        let params: Vec<Param> = self
            .params
            .iter()
            .map(|(key, value)| param(key, value))
            .collect::<Result<_, _>>()?;
        manifest.params = merged("params", &manifest.params, params, |a, b| a.key == b.key)?;
        let roots: Vec<Root> = self
            .root
            .into_iter()
            .map(SourceRoot::root)
            .collect::<Result<_, _>>()?;
        manifest.roots = merged("roots", &manifest.roots, roots, |a, b| a.name == b.name)?;
        let mut services = manifest.services;
        let inherited = services.len();
        for service in self.service {
            let service = service.service()?;
            match services
                .iter_mut()
                .take(inherited)
                .find(|earlier| earlier.name == service.name)
            {
                Some(earlier) => *earlier = service,
                None => services.push(service),
            }
        }
        if let Some(audit) = self.audit {
            audit.tell(&mut services)?;
        }
        if let Some(witness) = self.witness {
            let key = witness.key.clone();
            let carrier = witness.service(&services)?;
            // Who carries is not believed: the ledger keeps this witness's signatures alone.
            give(
                &mut services,
                "ledger",
                ["--witness-key", &key],
                "witness: key",
            )?;
            services.push(carrier);
        }
        Ok(Manifest {
            services,
            ..manifest
        })
    }
}

impl SourceHealth {
    fn health(self) -> Result<Health, ManifestError> {
        let gates = self.ready_s.is_some() || self.failed_s.is_some();
        Ok(Health {
            ready_s: self.ready_s.unwrap_or(0),
            failed_s: self.failed_s.unwrap_or(0),
            services: list("health: services", self.services, |service| {
                name("health: services", &service)
            })?,
            reboots_max: self
                .reboots_max
                .unwrap_or(if gates { REBOOTS_MAX } else { 0 }),
        })
    }
}

impl SourceRoot {
    fn root(self) -> Result<Root, ManifestError> {
        let field = format!("root {}: path", self.name);
        let path = Word::new(&self.path)
            .ok_or_else(|| ManifestError::value(field, &self.path, Word::RULE))?;
        Ok(Root {
            name: name("root name", &self.name)?,
            path,
            mode: self.mode,
        })
    }
}

impl SourceAudit {
    /// Tells the ledger whom it seals for, and the gateway what it writes.
    fn tell(self, services: &mut [Service]) -> Result<(), ManifestError> {
        let field = "audit: recipients";
        if self.recipients.len() > AUDIT_RECIPIENTS_MAX {
            let found = self.recipients.len() as u64;
            return Err(ManifestError::limit(
                field,
                found,
                AUDIT_RECIPIENTS_MAX as u64,
            ));
        }
        for (n, key) in self.recipients.iter().enumerate() {
            let digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
            if key.len() != 64 || !key.bytes().all(digit) {
                let expected = "an X25519 public key: 64 hex digits, as `ledger auditor` prints";
                return Err(ManifestError::value(field, key, expected));
            }
            if self.recipients.iter().take(n).any(|earlier| earlier == key) {
                return Err(ManifestError::value(field, key, "each key once"));
            }
            give(services, "ledger", ["--audit-recipient", key], field)?;
        }
        let Some(paths) = self.paths else {
            return Ok(());
        };
        let paths = match paths {
            AuditPaths::Clear => "clear",
            AuditPaths::Sealed => "sealed",
            AuditPaths::Off => "off",
        };
        give(
            services,
            "gateway",
            ["--audit-paths", paths],
            "audit: paths",
        )
    }
}

impl SourceWitness {
    fn service(self, services: &[Service]) -> Result<Service, ManifestError> {
        let field = |field: &str| format!("witness: {field}");
        if !is_url_of_address(&self.url) {
            let expected = "http://ADDRESS[:PORT][/PREFIX] with an address of numbers";
            return Err(ManifestError::value(field("url"), &self.url, expected));
        }
        let parts: Vec<&str> = self.key.splitn(3, '+').collect();
        let is_key = matches!(parts.as_slice(), [name, hash, _] if !name.is_empty()
            && hash.len() == 8 && hash.bytes().all(|b| b.is_ascii_hexdigit()));
        if !is_key {
            let expected = "the witness's key: NAME+HASH+BASE64";
            return Err(ManifestError::value(field("key"), &self.key, expected));
        }
        let every = self.every_s.unwrap_or(*WITNESS_EVERY_S.end());
        if !WITNESS_EVERY_S.contains(&every) {
            return Err(ManifestError::Range {
                field: field("every_s"),
                found: every.into(),
                low: (*WITNESS_EVERY_S.start()).into(),
                high: (*WITNESS_EVERY_S.end()).into(),
            });
        }
        let word = |key: &str, text: String| {
            Word::new(&text).ok_or_else(|| ManifestError::value(field(key), &text, Word::RULE))
        };
        let words = [
            word("role", "witness".to_owned())?,
            word("url", format!("--url={}", self.url))?,
            word("key", format!("--key={}", self.key))?,
            word("every_s", format!("--every={every}"))?,
        ];
        let role = |s: &&Service| {
            s.image == Image::Services && s.args.first().is_some_and(|w| w.as_str() == "ledger")
        };
        let ledger = services.iter().find(role).map(|s| s.name.clone());
        let expected = "a service of vb-services whose role is ledger";
        let ledger =
            ledger.ok_or_else(|| ManifestError::value(field("url"), &self.url, expected))?;
        Ok(Service {
            args: list(field("args"), words, Ok)?,
            uid: Some(WITNESS_UID),
            needs: list(field("needs"), [ledger], Ok)?,
            notify: true,
            // Its last exchanges and the ledger's answers to them.
            stop_timeout_ms: 15_000,
            memory_max_bytes: 32 << 20,
            tmp_bytes: 0,
            ..Service::new(name("witness", "witness")?, Image::Services)
        })
    }
}

/// Whether it is `http://ADDRESS[:PORT][/PREFIX]` as the role takes it: one that it refuses would end at each start.
fn is_url_of_address(url: &str) -> bool {
    use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
    let Some(rest) = url.strip_prefix("http://") else {
        return false;
    };
    let (host, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let is_address = host.parse::<SocketAddr>().is_ok()
        || match bare {
            Some(six) => six.parse::<Ipv6Addr>().is_ok(),
            None => host.parse::<Ipv4Addr>().is_ok(),
        };
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"/-._~".contains(&b);
    is_address && prefix.bytes().all(unreserved)
}

/// Puts `NAME=VALUE` behind the words of the service that is this role.
fn give(
    services: &mut [Service],
    role: &str,
    [name, value]: [&str; 2],
    field: &str,
) -> Result<(), ManifestError> {
    let is = |s: &&mut Service| {
        s.image == Image::Services && s.args.first().is_some_and(|word| word.as_str() == role)
    };
    let expected = format!("a service of vb-services whose role is {role}");
    let service = services.iter_mut().find(is);
    let service = service.ok_or_else(|| ManifestError::value(field, value, expected))?;
    let word = format!("{name}={value}");
    let word = Word::new(&word).ok_or_else(|| ManifestError::value(field, value, Word::RULE))?;
    let own = format!("service {}: args", service.name);
    let found = service.args.len() as u64 + 1;
    let full = |_| ManifestError::limit(own, found, ARGS_MAX as u64);
    service.args.push(word).map_err(full)
}

/// Puts `own` behind `inherited`; one of a name that was inherited takes its place.
fn merged<T: Clone, const N: usize>(
    field: &str,
    inherited: &[T],
    own: Vec<T>,
    same: impl Fn(&T, &T) -> bool,
) -> Result<Fixed<T, N>, ManifestError> {
    let mut all = inherited.to_vec();
    for item in own {
        match all
            .iter_mut()
            .take(inherited.len())
            .find(|earlier| same(earlier, &item))
        {
            Some(earlier) => *earlier = item,
            None => all.push(item),
        }
    }
    list(field, all, Ok)
}

impl SourceService {
    fn service(self) -> Result<Service, ManifestError> {
        let own = self.name;
        let field = |field: &str| format!("service {own}: {field}");
        let image = match self.image.as_str() {
            "vector_boot" => Image::VectorBoot,
            "vb-services" => Image::Services,
            other => Image::Added(name(field("image"), other)?),
        };
        let base = Service::new(name("service name", &own)?, image);
        let profile = self.profile.unwrap_or(base.profile);
        let base = Service { profile, ..base };
        // Without a cell there is neither a network nor a /tmp of its own: what is not said means that.
        let (network, tmp_bytes) = if base.is_confined() {
            (base.network, base.tmp_bytes)
        } else {
            (true, 0)
        };
        let backoff_ms_max = self.backoff_ms_max.unwrap_or(base.backoff_ms_max);
        Ok(Service {
            args: list(field("args"), self.args, |word| {
                Word::new(&word)
                    .ok_or_else(|| ManifestError::value(field("args"), &word, Word::RULE))
            })?,
            uid: self.uid,
            needs: list(field("needs"), self.needs, |need| {
                name(field("needs"), &need)
            })?,
            restart: self.restart.unwrap_or(base.restart),
            core: self.core.unwrap_or(base.core),
            // A maximum below the default first wait means that maximum, not an error about a key nobody wrote.
            backoff_ms_first: self
                .backoff_ms_first
                .unwrap_or(base.backoff_ms_first.min(backoff_ms_max)),
            backoff_ms_max,
            backoff_reset_s: self.backoff_reset_s.unwrap_or(base.backoff_reset_s),
            intensity_max: self.intensity_max.unwrap_or(base.intensity_max),
            intensity_s: self.intensity_s.unwrap_or(base.intensity_s),
            start_timeout_ms: self.start_timeout_ms.unwrap_or(base.start_timeout_ms),
            stop_timeout_ms: self.stop_timeout_ms.unwrap_or(base.stop_timeout_ms),
            watchdog_ms: self.watchdog_ms.unwrap_or(base.watchdog_ms),
            notify: self.notify.unwrap_or(base.notify),
            memory_max_bytes: self.memory_max_bytes.unwrap_or(base.memory_max_bytes),
            pids_max: self.pids_max.unwrap_or(base.pids_max),
            cpu_weight: self.cpu_weight.unwrap_or(base.cpu_weight),
            listen: list(field("listen"), self.listen, |listen| listen.listen(&own))?,
            pass: list(field("pass"), self.pass, |pass| {
                let expected =
                    "log, rts, token, sensors, stats, proc, tty, machine, roots or root.NAME";
                Pass::from_source(&pass)
                    .ok_or_else(|| ManifestError::value(field("pass"), &pass, expected))
            })?,
            caps: list(field("caps"), self.caps, Ok)?,
            data: self.data.unwrap_or(base.data),
            strategy: self.strategy.unwrap_or(base.strategy),
            log_rate: self.log_rate.unwrap_or(base.log_rate),
            network: self.network.unwrap_or(network),
            tmp_bytes: self.tmp_bytes.unwrap_or(tmp_bytes),
            fd_store: self.fd_store.unwrap_or(base.fd_store),
            extend_ms_max: self.extend_ms_max.unwrap_or(base.extend_ms_max),
            ..base
        })
    }
}

impl SourceListen {
    fn listen(self, service: &str) -> Result<Listen, ManifestError> {
        let field = |field: &str| format!("service {service}: listen {}: {field}", self.name);
        let fd = FdName::new(&self.name)
            .ok_or_else(|| ManifestError::value(field("name"), &self.name, FdName::RULE))?;
        let address = self.address.as_deref().unwrap_or(&self.name);
        let address = Address::new(address)
            .ok_or_else(|| ManifestError::value(field("address"), address, Address::RULE))?;
        let mode = match self.kind {
            ListenKind::Tcp => self.mode.unwrap_or(0),
            ListenKind::UnixStream | ListenKind::UnixSeqpacket => self.mode.unwrap_or(LISTEN_MODE),
        };
        Ok(Listen {
            name: fd,
            kind: self.kind,
            address,
            mode,
        })
    }
}

fn param(key: &str, value: &toml::Value) -> Result<Param, ManifestError> {
    let text = match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(number) => number.to_string(),
        other => {
            return Err(ManifestError::value(
                format!("params: {key}"),
                other.type_str(),
                "a text or an integer",
            ));
        }
    };
    Ok(Param {
        key: Key::new(key).ok_or_else(|| ManifestError::value("params", key, Key::RULE))?,
        value: Word::new(&text)
            .ok_or_else(|| ManifestError::value(format!("params: {key}"), &text, Word::RULE))?,
    })
}

fn name(field: impl std::fmt::Display, text: &str) -> Result<Name, ManifestError> {
    Name::new(text).ok_or_else(|| ManifestError::value(field, text, Name::RULE))
}

/// Converts a list item by item and refuses one that is longer than its table.
fn list<S, T, const N: usize>(
    field: impl std::fmt::Display,
    source: impl IntoIterator<Item = S, IntoIter: ExactSizeIterator>,
    convert: impl Fn(S) -> Result<T, ManifestError>,
) -> Result<Fixed<T, N>, ManifestError> {
    let source = source.into_iter();
    let found = source.len() as u64;
    let mut out = Fixed::new();
    for item in source {
        out.push(convert(item)?)
            .map_err(|_| ManifestError::limit(&field, found, N as u64))?;
    }
    Ok(out)
}

/// The manifest for people: JSON with sorted keys, names instead of kinds, every default filled in.
pub fn to_json(manifest: &Manifest) -> String {
    let services: Vec<_> = manifest
        .services
        .iter()
        .enumerate()
        .map(|(index, s)| service_json(manifest, index, s))
        .collect();
    let params: BTreeMap<_, _> = manifest
        .params
        .iter()
        .map(|p| (p.key.as_str(), p.value.as_str()))
        .collect();
    let json = serde_json::json!({
        "hostname": manifest.hostname,
        "verify": manifest.verify,
        "model_serve": manifest.model_serve,
        "health": manifest.health,
        "params": params,
        "root": manifest.roots,
        "service": services,
    });
    format!("{json:#}\n")
}

fn service_json(manifest: &Manifest, index: usize, service: &Service) -> serde_json::Value {
    // A struct of numbers, texts and lists always has a JSON form.
    let mut json = serde_json::to_value(service).unwrap_or_default();
    let pass: Vec<String> = service
        .pass
        .iter()
        .map(|pass| match pass {
            Pass::Root(root) => format!("root.{root}"),
            other => other.as_str().to_owned(),
        })
        .collect();
    if let Some(map) = json.as_object_mut() {
        map.insert("image".into(), service.image.as_str().into());
        map.insert("pass".into(), pass.into());
        map.insert("uid".into(), manifest.uid(index).into());
    }
    json
}
