//! The role's loop: one epoll over netlink, the DHCP and ARP sockets, questions to time servers and
//! PID 1's answer. Start with [`Role::run`].

use super::apply::{Applied, Setting};
use super::dhcp::message::{self, Identity, Reply};
use super::dhcp::{Action, Client, Input, Told};
use super::links::{Chooser, LINKS_MAX, Table};
use super::packet::{self, Arp, CLIENT_PORT, Datagram, SERVER_PORT};
use super::plan::{self, Fixed, Ntp, Plan};
use super::quota::Quota;
use super::resolv;
use super::sntp::{self, Sntp};
use super::status::{self, Counters, Facts, Time};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;
use sys::events::{Interest, Poller};
use sys::link_socket::{BROADCAST, LinkSocket, Protocol};
use sys::netlink::{Netlink, Note};
use wire::control::ClockSet;
use wire::{Done, Kind};

/// Packets of one socket that are read in one turn, so that a flood cannot keep the timers waiting.
const PACKETS_A_TURN: usize = 32;
/// Largest packet that is read: a frame's.
const PACKET_BYTES: usize = 1536;
/// Between two writings of the status: it is for people.
const STATUS_PACE_NS: u64 = 500_000_000;
/// How long PID 1 may take to greet us.
const INIT_LIMIT: Duration = Duration::from_secs(2);
/// How long its helper may take to set the clock before we ask anew.
const CLOCK_ANSWER_NS: u64 = 300_000_000_000;

const NETLINK: u64 = 1;
const DHCP: u64 = 2;
const ARP: u64 = 3;
const INIT: u64 = 4;
/// And the place of a time server.
const NTP_FIRST: u64 = 16;

/// Nothing: the loop ends only by an error.
#[derive(Debug)]
pub enum Never {}

/// The role.
pub struct Role {
    plan: Plan,
    ntp: Ntp,
    hostname: String,
    folder: PathBuf,
    netlink: Netlink,
    poller: Poller,
    notes: VecDeque<Note>,
    links: Table,
    chooser: Chooser,
    clients: BTreeMap<u32, Client>,
    dhcp: Option<LinkSocket>,
    arp: Option<LinkSocket>,
    applied: Applied,
    sntp: Sntp,
    ntp_sockets: BTreeMap<usize, UdpSocket>,
    clock: Option<(ipc::Connection, u64)>,
    /// Lines about what strangers send, about links, about leases.
    quota: Quota,
    quota_links: Quota,
    quota_leases: Quota,
    counters: Counters,
    time: Time,
    /// The status that was written last, and when the next may be.
    written: String,
    write_at: u64,
}

impl Role {
    /// Opens what the role needs.
    ///
    /// # Errors
    /// Without netlink and epoll there is nothing to do.
    pub fn open(plan: Plan, ntp: Ntp) -> io::Result<Self> {
        let netlink = Netlink::open()?;
        let poller = Poller::new()?;
        poller.add(netlink.as_fd(), NETLINK, Interest::Read)?;
        Ok(Self {
            plan,
            ntp,
            hostname: plan::told_name(sys::machine::hostname().unwrap_or_default()),
            folder: ipc::run_folder().join("net"),
            netlink,
            poller,
            notes: VecDeque::new(),
            links: Table::new(),
            chooser: Chooser::default(),
            clients: BTreeMap::new(),
            dhcp: None,
            arp: None,
            applied: Applied::default(),
            sntp: Sntp::new(crate::clock::BUILD_NS),
            ntp_sockets: BTreeMap::new(),
            clock: None,
            quota: Quota::default(),
            quota_links: Quota::default(),
            quota_leases: Quota::default(),
            counters: Counters::default(),
            time: Time::default(),
            written: String::new(),
            write_at: 0,
        })
    }

    /// Runs for ever.
    ///
    /// # Errors
    /// If waiting is not possible any more.
    pub fn run(&mut self) -> io::Result<Never> {
        self.loopback_up();
        self.list_links();
        self.write_resolv(&[], "");
        if let Err(e) = sys::inherit::notify("READY=1") {
            eprintln!("<4>net: notify: {e}");
        }
        if let Ntp::Servers(servers) = self.ntp.clone() {
            self.use_time_servers(&servers);
        }
        loop {
            self.settle();
            let now = sys::clock::monotonic_ns();
            let wait = match self.deadline() {
                // More than one pass takes: they are waiting already.
                _ if !self.notes.is_empty() => Some(Duration::ZERO),
                // Up to the next millisecond: the poller counts in them.
                at => {
                    at.map(|at| Duration::from_millis(at.saturating_sub(now).div_ceil(1_000_000)))
                }
            };
            self.poller.wait(wait)?;
            let mut index = 0;
            while let Some(ready) = self.poller.ready(index) {
                index += 1;
                match ready.token {
                    NETLINK => self.read_netlink()?,
                    DHCP => self.read_dhcp(),
                    ARP => self.read_arp(),
                    INIT => self.read_clock_answer(),
                    token => self.read_time(token),
                }
            }
        }
    }

    // --- what time brings ----------------------------------------------------------------------

    fn deadline(&self) -> Option<u64> {
        let client = self
            .chooser
            .active()
            .and_then(|i| self.clients.get(&i)?.deadline());
        // A lease of a link that is not in use ends unseen: nothing of it is configured.
        let status = (self.write_at > 0).then_some(self.write_at);
        let clock = self.clock.as_ref().map(|(_, until)| *until);
        let all = [
            client,
            self.chooser.deadline(),
            self.sntp.deadline(),
            status,
            clock,
        ];
        all.into_iter().flatten().min()
    }

    /// Everything that is due: changes of links, the choice, timers, the status.
    fn settle(&mut self) {
        // Each pass may bring notes of its own requests; more than a few are somebody else's and wait.
        for _ in 0..64 {
            let Some(note) = self.notes.pop_front() else {
                break;
            };
            self.take_note(note);
        }
        let now = sys::clock::monotonic_ns();
        let hopeless = self
            .chooser
            .active()
            .and_then(|i| self.clients.get(&i))
            .is_some_and(Client::is_hopeless);
        let before = self.chooser.active();
        if let Some(chosen) = self.chooser.choose(now, &self.links, hopeless) {
            self.change_link(before, chosen);
        }
        self.drive(Input::Tick);
        let actions = self.sntp.tick(now, random);
        self.do_time(actions);
        if self.clock.as_ref().is_some_and(|(_, until)| now >= *until) {
            self.end_clock("refused: no answer".to_owned());
        }
        self.write_status();
    }

    // --- links ---------------------------------------------------------------------------------

    fn loopback_up(&mut self) {
        // Number 1 in every network namespace (LOOPBACK_IFINDEX).
        let notes = &mut self.notes;
        if let Err(e) = self.netlink.set_up(1, |n| notes.push_back(n)) {
            eprintln!("<4>net: lo: {e}");
        }
    }

    fn list_links(&mut self) {
        let notes = &mut self.notes;
        if let Err(e) = self.netlink.links(|n| notes.push_back(n)) {
            eprintln!("<3>net: links: {e}");
        }
    }

    fn read_netlink(&mut self) -> io::Result<()> {
        for _ in 0..PACKETS_A_TURN {
            let notes = &mut self.notes;
            if !self.netlink.read_notes(|n| notes.push_back(n))? {
                break;
            }
        }
        Ok(())
    }

    fn take_note(&mut self, note: Note) {
        match note {
            Note::Link(link) if link.is_ethernet && link.mac.is_some() => self.see_link(link),
            Note::Link(_) => {}
            Note::LinkGone(index) => {
                if let Some(link) = self.links.remove(&index) {
                    self.counters.link_changes += 1;
                    eprintln!("net: link gone: link={}", link.name);
                    self.clients.remove(&index);
                }
            }
            Note::AddressGone(link, address) => {
                let ours = self
                    .applied
                    .setting()
                    .is_some_and(|s| (s.address.link, s.address.address) == (link, address));
                if ours {
                    eprintln!("<4>net: address gone: address={address}");
                    self.counters.lost += 1;
                    match self.plan.clone() {
                        Plan::Static(fixed) => self.set_fixed(link, &fixed),
                        _ => self.drive(Input::Unusable),
                    }
                }
            }
            // What was lost is told again.
            Note::Overrun => self.list_links(),
        }
    }

    fn see_link(&mut self, link: sys::netlink::Link) {
        let index = link.index;
        let known = self.links.get(&index).cloned();
        if known.is_none() && self.links.len() >= LINKS_MAX {
            return self.complain(format_args!("link {}: limit {LINKS_MAX} links", link.name));
        }
        if self.plan == Plan::Off {
            return;
        }
        if known.as_ref().is_some_and(|k| k.mac != link.mac) {
            // Another card under the same number: what it was given is not its own.
            self.clients.remove(&index);
        }
        let had_carrier = known.as_ref().is_some_and(|k| k.has_carrier);
        let (up, carrier, name) = (link.is_up, link.has_carrier, link.name.clone());
        self.links.insert(index, link);
        if known.is_none() && !up {
            let notes = &mut self.notes;
            if let Err(e) = self.netlink.set_up(index, |n| notes.push_back(n)) {
                eprintln!("<3>net: link {name}: {e}");
            }
        }
        if known.is_none() || had_carrier != carrier {
            self.counters.link_changes += 1;
            let word = if carrier { "up" } else { "down" };
            // Flapping is a stranger's: whoever holds the other end of the wire.
            let now = sys::clock::monotonic_ns();
            say(
                &mut self.quota_links,
                now,
                6,
                format_args!("link {word}: link={name}"),
            );
        }
        if self.chooser.active() == Some(index) && had_carrier != carrier {
            match (self.plan.clone(), carrier) {
                (Plan::Static(fixed), true) => self.set_fixed(index, &fixed),
                (_, true) => self.drive(Input::CarrierUp),
                (_, false) => self.drive(Input::CarrierDown),
            }
        }
    }

    fn change_link(&mut self, before: Option<u32>, chosen: Option<u32>) {
        if let Some(mut client) = before.and_then(|i| Some((i, self.clients.remove(&i)?))) {
            let actions = client.1.release();
            self.perform(client.0, &actions);
            self.clients.insert(client.0, client.1);
        }
        self.clear();
        (self.dhcp, self.arp) = (None, None);
        let Some(link) = chosen.and_then(|i| self.links.get(&i)) else {
            return;
        };
        let (index, mac) = (link.index, link.mac.unwrap_or_default());
        eprintln!("net: link chosen: link={}", link.name);
        match self.plan.clone() {
            Plan::Off => {}
            Plan::Static(fixed) => self.set_fixed(index, &fixed),
            Plan::Dhcp => {
                self.clients
                    .entry(index)
                    .or_insert_with(|| Client::new(mac, random()));
                self.drive(Input::CarrierUp);
            }
        }
    }

    // --- addresses -----------------------------------------------------------------------------

    fn set_fixed(&mut self, index: u32, fixed: &Fixed) {
        let setting = Setting::of_fixed(index, fixed);
        if let Err(e) = self.set(&setting) {
            eprintln!("<3>net: address {}/{}: {e}", fixed.address, fixed.prefix);
            return;
        }
        let dns: Vec<Ipv4Addr> = fixed.dns.into_iter().collect();
        self.write_resolv(&dns, "");
        self.sntp.network_came(sys::clock::monotonic_ns());
        let name = self.name_of(index);
        eprintln!(
            "net: static: link={name} address={}/{}",
            fixed.address, fixed.prefix
        );
        self.announce(index, fixed.address);
    }

    fn set(&mut self, setting: &Setting) -> io::Result<()> {
        let link = setting.address.link;
        let mtu = self.links.get(&link).map_or(0, |l| l.mtu);
        let notes = &mut self.notes;
        let mut complaints = Vec::new();
        let done = self.applied.set(
            &mut self.netlink,
            setting,
            mtu,
            &mut |n| notes.push_back(n),
            |c| complaints.push(c),
        );
        for complaint in complaints {
            self.complain(format_args!("{complaint}"));
        }
        done
    }

    fn clear(&mut self) {
        let had = self.applied.setting().is_some();
        let notes = &mut self.notes;
        let mut complaints = Vec::new();
        self.applied
            .clear(&mut self.netlink, &mut |n| notes.push_back(n), |c| {
                complaints.push(c)
            });
        for complaint in complaints {
            self.complain(format_args!("{complaint}"));
        }
        if had {
            self.write_resolv(&[], "");
        }
    }

    fn write_resolv(&mut self, dns: &[Ipv4Addr], domain: &str) {
        let text = resolv::text(dns, domain);
        if let Err(e) = resolv::replace(&self.folder, "resolv.conf", &text) {
            self.complain(format_args!("resolv.conf: {e}"));
        }
    }

    // --- DHCP ----------------------------------------------------------------------------------

    /// One step of the active link's client, and everything that follows from it.
    fn drive(&mut self, input: Input<'_>) {
        let Some(index) = self.chooser.active() else {
            return;
        };
        // Out of its place while its actions are done: they need the rest of us.
        let Some(mut client) = self.clients.remove(&index) else {
            return;
        };
        let now = sys::clock::monotonic_ns();
        let mut actions = client.step(now, input);
        // What the kernel does not take is told to the client, which then tries anew, later.
        for _ in 0..2 {
            self.keep_sockets(index, &client);
            if self.perform(index, &actions) {
                break;
            }
            actions = client.step(now, Input::Unusable);
        }
        self.keep_sockets(index, &client);
        self.clients.insert(index, client);
    }

    /// Opens what the client listens to, and closes what it does not: nothing of strangers is read
    /// while there is an address and no question.
    fn keep_sockets(&mut self, index: u32, client: &Client) {
        let open =
            |wanted: bool, held: &mut Option<LinkSocket>, protocol, token, poller: &Poller| {
                if !wanted {
                    *held = None;
                } else if held.is_none() {
                    let socket = LinkSocket::open(index, protocol)?;
                    poller.add(socket.as_fd(), token, Interest::Read)?;
                    *held = Some(socket);
                }
                Ok::<(), io::Error>(())
            };
        let dhcp = open(
            client.listens(),
            &mut self.dhcp,
            Protocol::DhcpClient,
            DHCP,
            &self.poller,
        );
        let arp = open(
            client.probes(),
            &mut self.arp,
            Protocol::Arp,
            ARP,
            &self.poller,
        );
        if let Err(e) = dhcp.and(arp) {
            self.complain(format_args!("packet socket: {e}"));
        }
    }

    /// `false` if the kernel does not take an address.
    fn perform(&mut self, index: u32, actions: &[Action]) -> bool {
        for action in actions {
            match action {
                Action::Send {
                    asks,
                    xid,
                    seconds,
                    to,
                } => {
                    let who = Identity {
                        mac: self
                            .links
                            .get(&index)
                            .and_then(|l| l.mac)
                            .unwrap_or_default(),
                        hostname: self.hostname.clone(),
                    };
                    let payload = message::write(asks, &who, *xid, *seconds);
                    let from = match asks {
                        message::Asks::Renew(address) => *address,
                        _ => Ipv4Addr::UNSPECIFIED,
                    };
                    let (to, mac) = to.unwrap_or((Ipv4Addr::BROADCAST, BROADCAST));
                    self.counters.sent += 1;
                    let packet = packet::write(&Datagram {
                        from,
                        from_port: CLIENT_PORT,
                        to,
                        to_port: SERVER_PORT,
                        payload: &payload,
                    });
                    if let Err(e) = self.send(index, Protocol::DhcpClient, &packet, &mac) {
                        self.complain(format_args!("dhcp: send: {e}"));
                    }
                }
                Action::Probe(address) => self.ask_who_has(index, Ipv4Addr::UNSPECIFIED, *address),
                Action::Configure(lease) => {
                    if !self.configure(index, lease) {
                        return false;
                    }
                }
                Action::Deconfigure(_) => {
                    self.clear();
                    if self.ntp == Ntp::Lease {
                        self.use_time_servers(&[]);
                    }
                }
                Action::Refused(refusal, server) => {
                    self.counters.refused += 1;
                    let server = server.map_or(String::new(), |s| format!("server {s}: "));
                    self.complain(format_args!("dhcp: {server}{refusal}"));
                }
                Action::Tell(told) => self.tell(told),
            }
        }
        true
    }

    fn configure(&mut self, index: u32, lease: &super::dhcp::lease::Lease) -> bool {
        let now = sys::clock::monotonic_ns();
        let mtu_max = self.links.get(&index).map_or(0, |l| l.mtu_max);
        let setting = Setting::of_lease(index, mtu_max, lease, now);
        let is_new = self
            .applied
            .setting()
            .is_none_or(|s| s.address.address != lease.address);
        if let Err(e) = self.set(&setting) {
            self.complain(format_args!(
                "address {}/{}: {e}",
                lease.address, lease.prefix
            ));
            return false;
        }
        self.counters.leases += 1;
        self.write_resolv(&lease.dns, &lease.domain);
        if is_new {
            let left = lease.seconds_left(now);
            let seconds = left.map_or("forever".to_owned(), |s| s.to_string());
            let router = lease
                .routers
                .first()
                .map_or("none".to_owned(), Ipv4Addr::to_string);
            eprintln!(
                "net: dhcp bound: link={} address={}/{} router={router} server={} lease_s={seconds}",
                self.name_of(index),
                lease.address,
                lease.prefix,
                lease.server
            );
            self.announce(index, lease.address);
        }
        if self.ntp == Ntp::Lease {
            self.use_time_servers(&plan::ntp_of_lease(&lease.ntp));
        } else if is_new {
            self.sntp.network_came(now);
        }
        true
    }

    fn tell(&mut self, told: &Told) {
        self.counters.lost += 1;
        let text = match told {
            Told::Nak(server) => format!("dhcp: server {server} said no"),
            Told::Taken(address, mac) => {
                format!(
                    "dhcp: address {address} is taken by {}",
                    status::mac(Some(*mac))
                )
            }
            Told::Over(address) => format!("dhcp: lease of {address} is over"),
            Told::Forgotten(address) => format!("dhcp: nobody answers for {address} any more"),
        };
        let now = sys::clock::monotonic_ns();
        say(&mut self.quota_leases, now, 4, format_args!("{text}"));
    }

    fn read_dhcp(&mut self) {
        let mut buf = [0u8; PACKET_BYTES];
        for _ in 0..PACKETS_A_TURN {
            let Some(socket) = &self.dhcp else { return };
            let received = match socket.receive(&mut buf) {
                Ok(received) => received,
                Err(e) => return self.complain_unless_empty("dhcp", &e),
            };
            self.counters.received += 1;
            let bytes = buf.get(..received.bytes).unwrap_or_default();
            let mac = self
                .chooser
                .active()
                .and_then(|i| self.links.get(&i)?.mac)
                .unwrap_or_default();
            let datagram = packet::read(bytes, received.checksum_ready);
            let reply = match datagram {
                // Another client's packet, or one for it.
                Ok(d) if d.from_port != SERVER_PORT || d.to_port != CLIENT_PORT => continue,
                Ok(d) => Reply::read(d.payload, mac).map_err(|r| format!("from {}: {r}", d.from)),
                Err(e) => Err(e),
            };
            match reply {
                Ok(Some(reply)) => self.drive(Input::Reply(&reply, received.from)),
                Ok(None) => {}
                Err(refusal) => {
                    self.counters.refused += 1;
                    self.complain(format_args!("dhcp: {refusal}"));
                }
            }
        }
    }

    // --- ARP -----------------------------------------------------------------------------------

    fn read_arp(&mut self) {
        let mut buf = [0u8; 64];
        for _ in 0..PACKETS_A_TURN {
            let Some(socket) = &self.arp else { return };
            let received = match socket.receive(&mut buf) {
                Ok(received) => received,
                Err(e) => return self.complain_unless_empty("arp", &e),
            };
            let Some(arp) = packet::read_arp(buf.get(..received.bytes).unwrap_or_default()) else {
                continue;
            };
            // RFC 5227, 2.1.1: whoever has it, and whoever probes for it as we do.
            let claimed = match arp.sender {
                Ipv4Addr::UNSPECIFIED if arp.asks => arp.target,
                sender => sender,
            };
            self.drive(Input::Claimed(claimed, arp.sender_mac));
        }
    }

    fn ask_who_has(&mut self, index: u32, from: Ipv4Addr, address: Ipv4Addr) {
        let mac = self
            .links
            .get(&index)
            .and_then(|l| l.mac)
            .unwrap_or_default();
        let packet = packet::write_arp(&Arp {
            asks: true,
            sender_mac: mac,
            sender: from,
            target: address,
        });
        if let Err(e) = self.send(index, Protocol::Arp, &packet, &BROADCAST) {
            self.complain(format_args!("arp: send: {e}"));
        }
    }

    /// Tells the link whose the address is now (RFC 5227, 2.3): others may remember somebody else.
    fn announce(&mut self, index: u32, address: Ipv4Addr) {
        self.ask_who_has(index, address, address);
    }

    fn send(&self, index: u32, protocol: Protocol, packet: &[u8], to: &[u8; 6]) -> io::Result<()> {
        let held = match protocol {
            Protocol::DhcpClient => &self.dhcp,
            Protocol::Arp => &self.arp,
        };
        match held {
            Some(socket) => socket.send(packet, to),
            None => LinkSocket::open(index, protocol)?.send(packet, to),
        }
    }

    // --- the time ------------------------------------------------------------------------------

    fn use_time_servers(&mut self, servers: &[std::net::SocketAddrV4]) {
        let actions = self.sntp.use_servers(sys::clock::monotonic_ns(), servers);
        self.do_time(actions);
        self.time.servers = self.sntp.servers().map(|s| s.to_string()).collect();
    }

    fn do_time(&mut self, actions: Vec<sntp::Action>) {
        for action in actions {
            match action {
                sntp::Action::Ask(place, server, question) => {
                    self.counters.ntp_sent += 1;
                    if let Err(e) = self.ask_time(place, server, &question) {
                        self.complain(format_args!("ntp: {server}: {e}"));
                        let actions = self.sntp.not_sent(sys::clock::monotonic_ns(), place);
                        self.do_time(actions);
                    }
                }
                sntp::Action::Close(place) => {
                    self.ntp_sockets.remove(&place);
                }
                sntp::Action::Found(found) => self.found_time(found),
                sntp::Action::Refused(refusal) => self.complain(format_args!("ntp: {refusal}")),
            }
        }
    }

    fn ask_time(
        &mut self,
        place: usize,
        server: std::net::SocketAddrV4,
        question: &[u8],
    ) -> io::Result<()> {
        let socket = sys::link_socket::udp_to(server)?;
        self.poller
            .add(socket.as_fd(), NTP_FIRST + place as u64, Interest::Read)?;
        socket.send(question)?;
        self.ntp_sockets.insert(place, socket);
        Ok(())
    }

    fn read_time(&mut self, token: u64) {
        let Ok(place) = usize::try_from(token.saturating_sub(NTP_FIRST)) else {
            return;
        };
        // One byte more than a packet: what is longer is cut, and its extensions are nothing to us.
        let mut buf = [0u8; sntp::PACKET_BYTES + 1];
        for _ in 0..PACKETS_A_TURN {
            let Some(socket) = self.ntp_sockets.get(&place) else {
                return;
            };
            let now = sys::clock::monotonic_ns();
            let actions = match socket.recv(&mut buf) {
                Ok(bytes) => {
                    let packet = buf.get(..bytes).unwrap_or_default();
                    self.sntp.answer(sys::clock::monotonic_ns(), place, packet)
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => {
                    self.complain(format_args!("ntp: server {}: {e}", place + 1));
                    self.sntp.unreachable(now, place)
                }
            };
            self.do_time(actions);
        }
    }

    fn found_time(&mut self, found: sntp::Found) {
        self.counters.ntp_found += 1;
        let now_wall = sys::clock::wall_ns();
        let since = sys::clock::monotonic_ns().saturating_sub(found.at_ns);
        let there = found.wall_ns.saturating_add(since);
        let apart = i128::from(there) - i128::from(now_wall);
        self.time.offset_ns =
            i64::try_from(apart).unwrap_or(if apart < 0 { i64::MIN } else { i64::MAX });
        self.time.found = Some(found);
        if self.clock.is_some() {
            // The last one is not answered yet.
            return;
        }
        let source = format!("ntp {}", found.server);
        let ask = ClockSet {
            wall_ns: found.wall_ns,
            at_ns: found.at_ns,
            error_ns: found.error_ns,
            source: &source,
        };
        let opened = ipc::Connection::open(&ipc::run_folder().join("init.sock"), INIT_LIMIT);
        let asked = opened.and_then(|mut connection| {
            connection.send(&ask, None)?;
            self.poller.add(connection.as_fd(), INIT, Interest::Read)?;
            Ok(connection)
        });
        match asked {
            Ok(connection) => {
                let until = sys::clock::monotonic_ns().saturating_add(CLOCK_ANSWER_NS);
                self.clock = Some((connection, until));
            }
            Err(e) => self.end_clock(format!("refused: init.sock: {e}")),
        }
    }

    fn read_clock_answer(&mut self) {
        let Some((connection, _)) = &mut self.clock else {
            return;
        };
        let outcome = match connection.receive() {
            Ok((frame, _)) if frame.kind == Kind::Done && frame.body::<Done>().is_ok() => {
                "set".to_owned()
            }
            Ok((frame, _)) => format!("refused: {:?} in answer", frame.kind),
            Err(e) => format!("refused: {e}"),
        };
        self.end_clock(outcome);
    }

    fn end_clock(&mut self, outcome: String) {
        self.clock = None;
        if outcome != "set" {
            self.complain(format_args!("clock: {outcome}"));
        }
        self.time.outcome = outcome;
    }

    // --- what is shown -------------------------------------------------------------------------

    fn name_of(&self, index: u32) -> String {
        self.links
            .get(&index)
            .map_or_else(|| index.to_string(), |l| l.name.clone())
    }

    fn complain_unless_empty(&mut self, what: &str, e: &io::Error) {
        if e.kind() != io::ErrorKind::WouldBlock && e.kind() != io::ErrorKind::Interrupted {
            self.complain(format_args!("{what}: receive: {e}"));
        }
    }

    /// One line about what somebody else did wrong, as long as there are few.
    fn complain(&mut self, what: std::fmt::Arguments<'_>) {
        say(&mut self.quota, sys::clock::monotonic_ns(), 4, what);
    }

    /// Writes the status if it changed, not more than twice a second.
    fn write_status(&mut self) {
        let active = self.chooser.active();
        let client = active.and_then(|i| self.clients.get(&i));
        let setting = self.applied.setting();
        let lease = client.and_then(Client::lease);
        let (routers, dns) = match (&self.plan, lease) {
            (Plan::Static(fixed), _) => (
                fixed.gateway.iter().map(Ipv4Addr::to_string).collect(),
                fixed.dns.iter().map(Ipv4Addr::to_string).collect(),
            ),
            (_, Some(lease)) => (
                lease.routers.iter().map(Ipv4Addr::to_string).collect(),
                lease.dns.iter().map(Ipv4Addr::to_string).collect(),
            ),
            _ => (Vec::new(), Vec::new()),
        };
        let route = |r: &sys::netlink::Route| match r.via {
            Some(via) => format!("{}/{} via {via}", r.to, r.prefix),
            None => format!("{}/{}", r.to, r.prefix),
        };
        let text = status::text(&Facts {
            plan: match self.plan {
                Plan::Off => "off",
                Plan::Dhcp => "dhcp",
                Plan::Static(_) => "static",
            },
            link: active.and_then(|i| self.links.get(&i)),
            links: self.links.values().collect(),
            state: client.map_or("", Client::state),
            address: setting.map_or(String::new(), |s| {
                format!("{}/{}", s.address.address, s.address.prefix)
            }),
            lease,
            routers,
            dns,
            routes: setting.iter().flat_map(|s| &s.routes).map(route).collect(),
            time: &self.time,
            counters: &self.counters,
        });
        if text == self.written {
            self.write_at = 0;
            return;
        }
        let now = sys::clock::monotonic_ns();
        if self.write_at > now {
            return;
        }
        if self.write_at == 0 && !self.written.is_empty() {
            // What follows in the same half second goes along.
            self.write_at = now.saturating_add(STATUS_PACE_NS / 10);
            return;
        }
        self.write_at = now.saturating_add(STATUS_PACE_NS);
        if let Err(e) = resolv::replace(&self.folder, "status.json", &text) {
            self.complain(format_args!("status.json: {e}"));
        }
        self.written = text;
    }
}

/// One line, if this quota has room.
fn say(quota: &mut Quota, now: u64, level: u8, what: std::fmt::Arguments<'_>) {
    match quota.allow(now) {
        None => {}
        Some(0) => eprintln!("<{level}>net: {what}"),
        Some(unsaid) => eprintln!("<{level}>net: {what} (and {unsaid} more before it)"),
    }
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without random numbers the monotonic clock still tells one question from another.
    match sys::random::fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes),
        Err(_) => sys::clock::monotonic_ns(),
    }
}
