//! Commands that read what the kernel says: processes, memory, network, mounts, its log.

use super::{Command, DONE, FAILED, Failure, Group, Out, Outcome};
use crate::console::context::{Context, read, small_file};
use crate::console::text::{self, Table};
use crate::console::words::Words;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use wire::control::{Service, ServicesGet, Status, StatusGet};

/// Processes shown at most: a machine that has more has another problem, which the count shows.
const PROCESSES_MAX: usize = 2048;
/// Interfaces shown at most.
const INTERFACES_MAX: usize = 64;
/// Kernel messages when not told.
const DMESG_LINES_DEFAULT: u64 = 40;
/// Kernel messages at most.
const DMESG_LINES_MAX: u64 = 10_000;

/// The rows of this group.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "ps",
        alias: "",
        group: Group::Machine,
        usage: "",
        help: "Processes and the service that each belongs to. CONFINED is what the kernel says of each: \
               a cell (other mounts than PID 1), capabilities that it has or could get, no_new_privs, \
               a seccomp filter. Threads of the kernel are left out; arguments are never shown.",
        completes: &[],
        changes: false,
        run: ps,
    },
    Command {
        name: "mem",
        alias: "",
        group: Group::Machine,
        usage: "",
        help: "Memory of the machine, of PID 1 and of each service. HELD AT is the service's memory.high: what the \
               self-tuner holds it at; - is not held. RECLAIMED is what the kernel has taken back of it so far, asked \
               for or under pressure.",
        completes: &[],
        changes: false,
        run: mem,
    },
    Command {
        name: "net",
        alias: "",
        group: Group::Machine,
        usage: "",
        help: "Network interfaces, addresses, gateway, name servers, lease, time. The lease shows the seconds that \
               are left of it, the time the last word of the time servers. Hardware addresses are in the JSON.",
        completes: &[],
        changes: false,
        run: net,
    },
    Command {
        name: "mounts",
        alias: "",
        group: Group::Machine,
        usage: "",
        help: "What is mounted where, and how full it is. As PID 1 sees it: services have mount namespaces \
               of their own. In one, sizes are shown for the data disk alone.",
        completes: &[],
        changes: false,
        run: mounts,
    },
    Command {
        name: "dmesg",
        alias: "",
        group: Group::Evidence,
        usage: "[-n N]",
        help: "The kernel's own log, its newest N messages (40). PID 1 opens it for the console; as an \
               ordinary process that needs a permission where the kernel restricts it.",
        completes: &[],
        changes: false,
        run: dmesg,
    },
];

/// One process out of `/proc/PID/status`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    pid: u32,
    ppid: u32,
    uid: u32,
    state: char,
    rss_bytes: u64,
    comm: String,
    /// Threads of the kernel have no memory of their own.
    is_user: bool,
    confined: Confined,
}

/// What the kernel says of a process's confinement; nothing where it does not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Confined {
    /// Every power that it has or could get, as a mask of `capabilities(7)`.
    capabilities: Option<u64>,
    no_new_privileges: bool,
    seccomp: bool,
    /// It sees other mounts than PID 1.
    cell: bool,
}

impl Confined {
    fn of(status: &str, cell: bool) -> Self {
        let field = |name: &str| {
            let mut lines = status.lines().filter_map(|l| l.split_once(':'));
            lines.find(|(n, _)| *n == name).map(|(_, v)| v.trim())
        };
        let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
        let masks = sets.map(|name| u64::from_str_radix(field(name)?, 16).ok());
        Self {
            capabilities: masks.into_iter().try_fold(0, |all, mask| Some(all | mask?)),
            no_new_privileges: field("NoNewPrivs") == Some("1"),
            // 2 is SECCOMP_MODE_FILTER (proc_pid_status(5)).
            seccomp: field("Seccomp") == Some("2"),
            cell,
        }
    }

    /// In words; `-` for a process that nothing holds.
    fn text(&self) -> String {
        let capabilities = match self.capabilities {
            Some(0) => "no caps".to_owned(),
            Some(mask) if mask.count_ones() <= FEW_CAPABILITIES => format!("caps {mask:x}"),
            _ => String::new(),
        };
        let words = [
            if self.cell { "cell" } else { "" },
            &capabilities,
            if self.no_new_privileges {
                "no new privs"
            } else {
                ""
            },
            if self.seccomp { "seccomp" } else { "" },
        ];
        let words: Vec<&str> = words.into_iter().filter(|w| !w.is_empty()).collect();
        if words.is_empty() {
            "-".to_owned()
        } else {
            words.join(", ")
        }
    }
}

/// With more capabilities than these a process counts as unbound.
const FEW_CAPABILITIES: u32 = 4;

/// Reads `Name:  value` lines; sizes are in kB.
fn process(pid: u32, status: &str) -> Option<Process> {
    let field = |name: &str| {
        let lines = status.lines();
        lines
            .filter_map(|l| l.split_once(':'))
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v.trim())
    };
    let number = |name: &str| field(name)?.split_whitespace().next()?.parse::<u64>().ok();
    Some(Process {
        pid,
        ppid: u32::try_from(number("PPid")?).ok()?,
        uid: u32::try_from(number("Uid")?).ok()?,
        state: field("State")?.chars().next()?,
        rss_bytes: number("VmRSS").unwrap_or(0).saturating_mul(1024),
        comm: field("Name")?.to_owned(),
        is_user: field("VmSize").is_some() || field("State")?.starts_with('Z'),
        confined: Confined::default(),
    })
}

fn processes(proc: &Path) -> Result<Vec<Process>, Failure> {
    let listed = std::fs::read_dir(proc);
    let listed = listed.map_err(|e| Failure::failed(format!("{}: {e}", proc.display())))?;
    let pid = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.ok()?.file_name().to_str()?.parse::<u32>().ok()
    };
    let mut pids: Vec<u32> = listed.filter_map(pid).collect();
    pids.sort_unstable();
    let mounts_of = |pid: u32| small_file(&proc.join(format!("{pid}/mounts"))).ok();
    let mounts_of_init = mounts_of(1);
    // A process that ended between the reads is not there, which is right.
    let read = |pid: u32| {
        let status = small_file(&proc.join(format!("{pid}/status"))).ok()?;
        let mut process = process(pid, &status)?;
        if process.is_user {
            let mounts = mounts_of(pid);
            let cell = mounts.is_some() && mounts_of_init.is_some() && mounts != mounts_of_init;
            process.confined = Confined::of(&status, cell);
        }
        Some(process)
    };
    Ok(pids
        .into_iter()
        .filter_map(read)
        .filter(|p| p.is_user)
        .take(PROCESSES_MAX)
        .collect())
}

/// What PID 1 says of the processes: its own pid, and each service's by pid.
fn owners(context: &Context<'_>) -> Option<(u32, BTreeMap<u32, String>)> {
    let mut server = context.init().ok()?;
    let init = server
        .ask(&StatusGet, |frame| {
            frame.body::<Status<'_>>().map(|s| s.pid)
        })
        .ok()?;
    let mut found = BTreeMap::from([(init, "init".to_owned())]);
    let listed = server.list(&ServicesGet, |frame| {
        let s = frame.body::<Service<'_>>()?;
        if s.pid != 0 {
            found.insert(s.pid, s.name.to_owned());
        }
        Ok(())
    });
    listed.ok().map(|()| (init, found))
}

/// The service of each process: its own, or that of the nearest ancestor which has one.
fn owned(all: &[Process], owners: &BTreeMap<u32, String>) -> BTreeMap<u32, String> {
    let parents: BTreeMap<u32, u32> = all.iter().map(|p| (p.pid, p.ppid)).collect();
    let owner = |pid: u32| {
        let mut at = pid;
        // A chain of parents is no longer than the table; a race could otherwise make a ring.
        for _ in 0..=all.len() {
            if let Some(name) = owners.get(&at) {
                return Some((pid, name.clone()));
            }
            at = *parents.get(&at)?;
        }
        None
    };
    all.iter().filter_map(|p| owner(p.pid)).collect()
}

fn ps(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    Words::parse(words, &[], &[], 0)?;
    let all = processes(&context.proc)?;
    let known = owners(context);
    let of = known
        .as_ref()
        .map(|(_, owners)| owned(&all, owners))
        .unwrap_or_default();
    // Outside the appliance only our own processes are the machine's.
    let only_ours = known.as_ref().is_some_and(|(init, _)| *init != 1);
    let shown: Vec<&Process> = all
        .iter()
        .filter(|p| !only_ours || of.contains_key(&p.pid))
        .collect();
    let service = |p: &Process| of.get(&p.pid).cloned().unwrap_or_default();
    let mut table = Table::new(&[
        ">PID", ">PPID", ">UID", "S", ">RSS", "COMMAND", "SERVICE", "CONFINED",
    ]);
    for p in &shown {
        table.row([
            p.pid.to_string(),
            p.ppid.to_string(),
            p.uid.to_string(),
            p.state.to_string(),
            text::bytes(p.rss_bytes),
            p.comm.clone(),
            service(p),
            p.confined.text(),
        ]);
    }
    let values: Vec<Value> = shown
        .iter()
        .map(|p| {
            json!({
                "pid": p.pid, "ppid": p.ppid, "uid": p.uid, "state": p.state.to_string(),
                "rss_bytes": p.rss_bytes, "comm": p.comm, "service": service(p),
                "capabilities": p.confined.capabilities.map(|mask| format!("{mask:x}")),
                "no_new_privs": p.confined.no_new_privileges, "seccomp": p.confined.seccomp,
                "cell": p.confined.cell,
            })
        })
        .collect();
    out.either(&json!({ "processes": values }), &table.lines())?;
    Ok(DONE)
}

/// `Name: 123 kB` lines as bytes.
fn sizes(text: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let kib: u64 = value.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some((name.to_owned(), kib.saturating_mul(1024)))
    };
    text.lines().filter_map(line).collect()
}

/// Where a service is held, as the kernel has it; nothing where it is not, or has no cgroup of ours.
fn memory_high(context: &Context<'_>, service: &str) -> Option<u64> {
    let figure = context.descriptor(&format!("memory.high.{service}")).ok()?;
    let mut text = [0; 24];
    let bytes = File::from(figure).read_at(&mut text, 0).ok()?;
    // `max` is no number.
    let text = std::str::from_utf8(text.get(..bytes)?).ok()?;
    text.trim().parse().ok()
}

/// What the kernel has taken back of a service's memory since its cgroup was made, asked for or under pressure;
/// nothing where there is no cgroup of ours.
fn memory_reclaimed(context: &Context<'_>, service: &str) -> Option<u64> {
    let counters = context.descriptor(&format!("memory.stat.{service}")).ok()?;
    let mut text = [0; MEMORY_STAT_BYTES_MAX];
    let bytes = File::from(counters).read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..bytes)?).ok()?;
    let pages = text.lines().find_map(|line| line.strip_prefix("pgsteal "));
    let pages: u64 = pages?.trim().parse().ok()?;
    Some(pages.saturating_mul(sys::reclaim::page_bytes() as u64))
}

/// `memory.stat` has some 60 lines of at most 50 bytes.
const MEMORY_STAT_BYTES_MAX: usize = 8 << 10;

fn mem(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    Words::parse(words, &[], &[], 0)?;
    let machine = sizes(&read(&context.proc.join("meminfo"))?);
    let of = |name: &str| machine.get(name).copied().unwrap_or(0);
    let mut services = Vec::new();
    let mut init_pid = 1;
    if let Ok(mut server) = context.init() {
        // Without PID 1's answer the machine's own figures still stand.
        let asked = server.ask(&StatusGet, |f| f.body::<Status<'_>>().map(|s| s.pid));
        init_pid = asked.unwrap_or(1);
        let _ = server.list(&ServicesGet, |frame| {
            let s = frame.body::<Service<'_>>()?;
            services.push((s.name.to_owned(), s.pid, s.memory_bytes));
            Ok(())
        });
    }
    let status = |pid: u32| {
        let text = small_file(&context.proc.join(format!("{pid}/status"))).unwrap_or_default();
        sizes(&text)
    };
    let init = status(init_pid);
    let part = |sizes: &BTreeMap<String, u64>, name: &str| sizes.get(name).copied().unwrap_or(0);
    let used = of("MemTotal").saturating_sub(of("MemAvailable"));
    let mut lines = text::pairs(&[
        ("total", text::bytes(of("MemTotal"))),
        ("available", text::bytes(of("MemAvailable"))),
        ("used", text::bytes(used)),
        ("cached", text::bytes(of("Cached"))),
        ("mapped", text::bytes(of("Mapped"))),
        (
            "kernel",
            text::bytes(
                of("Slab")
                    .saturating_add(of("KernelStack"))
                    .saturating_add(of("PageTables")),
            ),
        ),
    ]);
    let mut table = Table::new(&[
        "PROCESS",
        ">RSS",
        ">OWN",
        ">GROUP",
        ">HELD AT",
        ">RECLAIMED",
    ]);
    let mut rows = vec![("init".to_owned(), init, 0)];
    rows.extend(
        services
            .iter()
            .filter(|(_, pid, _)| *pid != 0)
            .map(|(n, pid, group)| (n.clone(), status(*pid), *group)),
    );
    let known = |n: u64| {
        if n == 0 {
            "-".to_owned()
        } else {
            text::bytes(n)
        }
    };
    let mut values = Vec::new();
    for (name, sizes, group) in &rows {
        let (rss, own) = (part(sizes, "VmRSS"), part(sizes, "RssAnon"));
        let high = memory_high(context, name);
        let reclaimed = memory_reclaimed(context, name);
        table.row([
            name.clone(),
            known(rss),
            known(own),
            known(*group),
            known(high.unwrap_or(0)),
            known(reclaimed.unwrap_or(0)),
        ]);
        values.push(json!({
            "name": name, "rss_bytes": rss, "own_bytes": own, "group_bytes": group, "high_bytes": high,
            "reclaimed_bytes": reclaimed,
        }));
    }
    lines.push(String::new());
    lines.extend(table.lines());
    let value = json!({
        "total_bytes": of("MemTotal"), "available_bytes": of("MemAvailable"), "used_bytes": used,
        "cached_bytes": of("Cached"), "mapped_bytes": of("Mapped"), "processes": values,
    });
    out.either(&value, &lines)?;
    Ok(DONE)
}

/// One row of `/proc/net/route`: addresses are host-order hex of network-order bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Route {
    interface: String,
    destination: Ipv4Addr,
    gateway: Ipv4Addr,
    mask: Ipv4Addr,
}

fn routes(text: &str) -> Vec<Route> {
    let address = |hex: &str| {
        u32::from_str_radix(hex, 16)
            .ok()
            .map(|n| Ipv4Addr::from(n.to_ne_bytes()))
    };
    let row = |line: &str| {
        let mut fields = line.split_whitespace();
        let interface = fields.next()?.to_owned();
        let destination = address(fields.next()?)?;
        let gateway = address(fields.next()?)?;
        // Flags, RefCnt, Use and Metric stand between the gateway and the mask.
        let mask = address(fields.nth(4)?)?;
        Some(Route {
            interface,
            destination,
            gateway,
            mask,
        })
    };
    text.lines().skip(1).filter_map(row).collect()
}

/// The addresses of this machine: `|-- ADDRESS` lines followed by `/32 host LOCAL` in `fib_trie`.
fn local_addresses(trie: &str) -> BTreeSet<Ipv4Addr> {
    let mut found = BTreeSet::new();
    let mut last: Option<Ipv4Addr> = None;
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(last);
        }
    }
    found
}

/// `ADDRESS/LENGTH` of an interface: the local addresses inside its connected routes.
fn addresses_of(interface: &str, locals: &BTreeSet<Ipv4Addr>, routes: &[Route]) -> Vec<String> {
    let inside = |address: &Ipv4Addr, route: &Route| {
        let mask = u32::from(route.mask);
        u32::from(*address) & mask == u32::from(route.destination) & mask
    };
    let connected = |r: &&Route| r.gateway.is_unspecified() && !r.mask.is_unspecified();
    let place = |address: &Ipv4Addr| {
        if address.is_loopback() {
            return (interface == "lo").then(|| format!("{address}/8"));
        }
        let near = routes
            .iter()
            .filter(connected)
            .filter(|r| inside(address, r));
        let nearest = near.max_by_key(|r| u32::from(r.mask))?;
        let length = u32::from(nearest.mask).leading_ones();
        (nearest.interface == interface).then(|| format!("{address}/{length}"))
    };
    locals.iter().filter_map(place).collect()
}

/// IPv6 addresses by interface, from `/proc/net/if_inet6`.
fn addresses6(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [digits, _, length, _, _, name] = fields.as_slice()
            && let (Ok(bits), Ok(length)) = (
                u128::from_str_radix(digits, 16),
                u8::from_str_radix(length, 16),
            )
        {
            let address = std::net::Ipv6Addr::from(bits);
            found
                .entry((*name).to_owned())
                .or_default()
                .push(format!("{address}/{length}"));
        }
    }
    found
}

fn net(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    Words::parse(words, &[], &[], 0)?;
    let folder = context.sys.join("class/net");
    let listed = std::fs::read_dir(&folder);
    let listed = listed.map_err(|e| Failure::failed(format!("{}: {e}", folder.display())))?;
    let name = |e: std::io::Result<std::fs::DirEntry>| e.ok()?.file_name().into_string().ok();
    let mut names: Vec<String> = listed
        .filter_map(name)
        .filter(|n| n != "bonding_masters")
        .collect();
    names.sort_unstable();
    names.truncate(INTERFACES_MAX);
    let proc = |name: &str| small_file(&context.proc.join("net").join(name)).unwrap_or_default();
    let routes = routes(&proc("route"));
    let locals = local_addresses(&proc("fib_trie"));
    let six = addresses6(&proc("if_inet6"));
    let mut values = Vec::new();
    let mut table = Table::new(&["INTERFACE", "STATE", "ADDRESS", ">RECEIVED", ">SENT"]);
    for name in &names {
        let knob = |knob: &str| {
            let text = small_file(&folder.join(name).join(knob)).unwrap_or_default();
            text.trim().to_owned()
        };
        let count = |name: &str| {
            knob(&format!("statistics/{name}"))
                .parse::<u64>()
                .unwrap_or(0)
        };
        let mut addresses = addresses_of(name, &locals, &routes);
        addresses.extend(six.get(name).into_iter().flatten().cloned());
        let (state, hardware) = (knob("operstate"), knob("address"));
        let (received, sent) = (count("rx_bytes"), count("tx_bytes"));
        let first = addresses.first().cloned().unwrap_or_else(|| "-".to_owned());
        table.row([
            name.clone(),
            state.clone(),
            first,
            text::bytes(received),
            text::bytes(sent),
        ]);
        for more in addresses.iter().skip(1) {
            let none = String::new;
            table.row([none(), none(), more.clone(), none(), none()]);
        }
        values.push(json!({
            "name": name, "state": state, "addresses": addresses, "hardware": hardware,
            "mtu": knob("mtu").parse::<u64>().unwrap_or(0), "received_bytes": received, "sent_bytes": sent,
        }));
    }
    let gateways: Vec<String> = routes
        .iter()
        .filter(|r| {
            r.destination.is_unspecified() && r.mask.is_unspecified() && !r.gateway.is_unspecified()
        })
        .map(|r| format!("{} on {}", r.gateway, r.interface))
        .collect();
    let resolv = small_file(&context.run.join("resolv.conf")).unwrap_or_default();
    let servers: Vec<String> = resolv
        .lines()
        .filter_map(|l| l.trim().strip_prefix("nameserver"))
        .map(|l| l.trim().to_owned())
        .collect();
    let mut lines = table.lines();
    lines.push(String::new());
    lines.extend(text::pairs(&[
        ("gateway", gateways.join(", ")),
        ("names", servers.join(", ")),
    ]));
    let network = super::network::read(context);
    if let Some(network) = &network {
        let pairs = super::network::pairs(network);
        lines.extend(text::pairs(&pairs));
    }
    out.either(
        &json!({"interfaces": values, "gateways": gateways, "nameservers": servers, "net": network}),
        &lines,
    )?;
    Ok(DONE)
}

/// Undoes the octal escapes of `/proc/mounts` (proc_pid_mounts(5): space, tab, newline, backslash).
fn unescaped(text: &str) -> String {
    let plain = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    plain.iter().fold(text.to_owned(), |text, (code, plain)| {
        text.replace(code, plain)
    })
}

fn mounts(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    Words::parse(words, &[], &[], 0)?;
    let init = context
        .init()
        .ok()
        .and_then(|mut server| {
            let asked = server.ask(&StatusGet, |f| f.body::<Status<'_>>().map(|s| s.pid));
            asked.ok()
        })
        .unwrap_or(1);
    let own = read(&context.proc.join("self/mounts"))?;
    let text = read(&context.proc.join(format!("{init}/mounts"))).unwrap_or_else(|_| own.clone());
    // In a cell a name is another place than PID 1's.
    let same = text == own;
    let mut values = Vec::new();
    let mut table = Table::new(&["WHERE", "TYPE", "SOURCE", ">SIZE", ">FREE", "OPTIONS"]);
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [source, target, kind, options, ..] = fields.as_slice() else {
            continue;
        };
        let (source, target) = (unescaped(source), unescaped(target));
        // Kernel file systems answer with zero blocks, those that may not be looked at with an error.
        let space = match target.as_str() {
            place if same => sys::kernel_log::space(Path::new(place)).ok(),
            "/data" => {
                let data = context.descriptor("data").ok();
                data.and_then(|data| sys::kernel_log::space_of(data.as_fd()).ok())
            }
            _ => None,
        }
        .filter(|s| s.total_bytes > 0);
        let shown = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), text::bytes);
        let (total, free) = (
            space.map(|s| s.total_bytes),
            space.map(|s| s.available_bytes),
        );
        let brief: Vec<&str> = options
            .split(',')
            .filter(|o| BRIEF_OPTIONS.contains(o))
            .collect();
        values.push(json!({
            "target": target, "type": kind, "source": source, "options": options,
            "total_bytes": total, "available_bytes": free,
        }));
        table.row([
            target,
            (*kind).to_owned(),
            source,
            shown(total),
            shown(free),
            brief.join(","),
        ]);
    }
    out.either(&json!({ "mounts": values }), &table.lines())?;
    Ok(DONE)
}

/// Mount options that say what may be done there; the rest is in the JSON.
const BRIEF_OPTIONS: &[&str] = &["ro", "rw", "nosuid", "nodev", "noexec"];

fn dmesg(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let words = Words::parse(words, &[], &["-n"], 0)?;
    let count = words.number("-n", DMESG_LINES_DEFAULT, 1, DMESG_LINES_MAX)?;
    let log = context.descriptor("kmsg")?;
    let records = sys::kernel_log::records(log.into()).map_err(|e| {
        Failure::failed(format!(
            "/dev/kmsg: {e}; PID 1's own lines are in: log init"
        ))
    })?;
    let parsed: Vec<(u64, u64, String)> = records.iter().filter_map(|r| message(r)).collect();
    if parsed.is_empty() && !records.is_empty() {
        out.either(
            &json!({"messages": []}),
            &["no record of the kernel's log could be read".to_owned()],
        )?;
        return Ok(FAILED);
    }
    // At most DMESG_LINES_MAX, so it fits.
    let skip = parsed
        .len()
        .saturating_sub(usize::try_from(count).unwrap_or(usize::MAX));
    let shown = parsed.into_iter().skip(skip);
    let (mut values, mut lines) = (Vec::new(), Vec::new());
    for (level, us, text) in shown {
        lines.push(format!(
            "[{:>5}.{:06}] {text}",
            us / 1_000_000,
            us % 1_000_000
        ));
        values.push(json!({"level": level, "at_us": us, "text": text}));
    }
    out.either(&json!({ "messages": values }), &lines)?;
    Ok(DONE)
}

/// `PRIORITY,SEQUENCE,MICROSECONDS,...;TEXT` (Documentation/ABI/testing/dev-kmsg): level, time, text.
fn message(record: &str) -> Option<(u64, u64, String)> {
    let (head, body) = record.split_once(';')?;
    let mut fields = head.split(',');
    let priority: u64 = fields.next()?.parse().ok()?;
    let us = fields.nth(1)?.parse().ok()?;
    // The facility lies above the three bits of the level; further lines are key-value pairs.
    Some((
        priority & 7,
        us,
        body.lines().next().unwrap_or_default().to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROUTE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
    const TRIE: &str = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
        Local:\n        |-- 10.0.2.15\n           /32 host LOCAL\n        |-- 10.0.2.255\n           /32 link BROADCAST\n\
        \x20       |-- 127.0.0.1\n           /32 host LOCAL\n";

    #[test]
    fn addresses_are_matched_to_interfaces_through_the_routes() {
        let routes = routes(ROUTE);
        assert_eq!(routes[0].gateway, Ipv4Addr::new(10, 0, 2, 2));
        let locals = local_addresses(TRIE);
        assert_eq!(addresses_of("eth0", &locals, &routes), ["10.0.2.15/24"]);
        assert_eq!(addresses_of("lo", &locals, &routes), ["127.0.0.1/8"]);
        let six = addresses6("fe800000000000005054fffe123456ab 02 40 20 80     eth0\n");
        assert_eq!(six["eth0"], ["fe80::5054:fffe:1234:56ab/64"]);
    }

    #[test]
    fn a_process_is_read_from_its_status_and_kernel_threads_are_told_apart() {
        let text = "Name:\tvb-services\nState:\tS (sleeping)\nPPid:\t1\nUid:\t901\t901\t901\t901\nVmSize:\t  9000 kB\nVmRSS:\t    2048 kB\n";
        let found = process(42, text).unwrap();
        assert_eq!(
            (found.ppid, found.uid, found.state, found.rss_bytes),
            (1, 901, 'S', 2_097_152)
        );
        assert!(found.is_user);
        assert!(
            !process(
                2,
                "Name:\tkthreadd\nState:\tS (sleeping)\nPPid:\t0\nUid:\t0\t0\t0\t0\n"
            )
            .unwrap()
            .is_user
        );
        assert!(
            process(
                9,
                "Name:\tx\nState:\tZ (zombie)\nPPid:\t1\nUid:\t0\t0\t0\t0\n"
            )
            .unwrap()
            .is_user
        );
        assert_eq!(process(1, "Name:\tx\n"), None);
    }

    #[test]
    fn a_process_belongs_to_its_nearest_ancestor_with_a_service() {
        let process = |pid, ppid| Process {
            pid,
            ppid,
            uid: 0,
            state: 'S',
            rss_bytes: 0,
            comm: "x".into(),
            is_user: true,
            confined: Confined::default(),
        };
        let all = [
            process(1, 0),
            process(5, 1),
            process(9, 5),
            process(10, 9),
            process(20, 20),
        ];
        let owners = BTreeMap::from([(1, "init".to_owned()), (5, "net".to_owned())]);
        let of = owned(&all, &owners);
        assert_eq!(of[&10], "net");
        assert_eq!(of[&1], "init");
        assert_eq!(of.get(&20), None);
    }

    #[test]
    fn kernel_records_are_read_whole_or_not_at_all() {
        assert_eq!(
            message("30,5,1234567,-;eth0: up\n DRIVER=x\n"),
            Some((6, 1_234_567, "eth0: up".into()))
        );
        assert_eq!(message("nonsense"), None);
        assert_eq!(unescaped("/a\\040b\\134c"), "/a b\\c");
    }

    proptest! {
        #[test]
        fn no_text_of_the_kernel_panics(text in "[ -~\t\n]{0,400}") {
            let _ = (process(1, &text), routes(&text), local_addresses(&text), addresses6(&text), message(&text), sizes(&text));
        }
    }
}
