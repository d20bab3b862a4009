//! The role `net` against another's DHCP server, in two network namespaces: bound, renewed, a link that
//! goes and comes back, and a server that dies. Needs root, `ip` and `dnsmasq`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use system_tests::inputs::inputs;
use system_tests::stdout_of;

/// The shortest lease that dnsmasq gives is two minutes; each wait is for a part of one.
const LIMIT: Duration = Duration::from_secs(180);
const ADDRESS: &str = "10.88.0.50";

/// Two namespaces with a wire between them; gone with the value.
struct Lab {
    server: String,
    client: String,
    processes: Vec<Child>,
}

impl Lab {
    fn new() -> Self {
        let name = |end: &str| format!("vb-drill-{}-{end}", std::process::id());
        let lab = Self {
            server: name("server"),
            client: name("client"),
            processes: Vec::new(),
        };
        ip(&["netns", "add", &lab.server]);
        ip(&["netns", "add", &lab.client]);
        ip(&[
            "link",
            "add",
            "wire",
            "netns",
            &lab.server,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &lab.client,
        ]);
        ip(&[
            "-n",
            &lab.server,
            "addr",
            "add",
            "10.88.0.1/24",
            "dev",
            "wire",
        ]);
        ip(&["-n", &lab.server, "link", "set", "wire", "up"]);
        lab
    }

    /// Starts a program in one of the namespaces, its output in a file; gives its place in the list.
    fn start(
        &mut self,
        namespace: &str,
        words: &[&str],
        env: &[(&str, &str)],
        log: &Path,
    ) -> usize {
        let output = File::create(log).expect("a log");
        let child = Command::new("ip")
            .args(["netns", "exec", namespace])
            .args(words)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stderr(output.try_clone().expect("the same log"))
            .stdout(output)
            .spawn()
            .expect("start ip");
        self.processes.push(child);
        self.processes.len() - 1
    }

    fn end(&mut self, process: usize) {
        if let Some(child) = self.processes.get_mut(process) {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn addresses(&self) -> String {
        ip(&["-n", &self.client, "-4", "addr", "show", "eth0"])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for process in 0..self.processes.len() {
            self.end(process);
        }
        for namespace in [&self.server, &self.client] {
            let _ = Command::new("ip")
                .args(["netns", "del", namespace])
                .status();
        }
    }
}

fn ip(words: &[&str]) -> String {
    stdout_of(Command::new("ip").args(words))
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn until(what: &str, logs: &[PathBuf], holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        if begun.elapsed() > LIMIT {
            let shown: Vec<String> = logs.iter().map(|l| text(l)).collect();
            panic!(
                "{what}: not within {} s\n{}",
                LIMIT.as_secs(),
                shown.join("\n")
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("{what}: after {:.1} s", begun.elapsed().as_secs_f32());
}

/// Runs the drill.
pub fn drill() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = folder.path().join("run");
    std::fs::create_dir_all(run.join("net")).expect("the role's folder");
    let (server_log, client_log) = (folder.path().join("server"), folder.path().join("client"));
    let leases = format!(
        "--dhcp-leasefile={}",
        folder.path().join("leases").display()
    );
    let mut lab = Lab::new();
    let (server, client) = (lab.server.clone(), lab.client.clone());
    let words = [
        "dnsmasq",
        "--no-daemon",
        "--conf-file=/dev/null",
        "--port=0",
        "--interface=wire",
        "--no-ping",
        "--log-dhcp",
        "--dhcp-range=10.88.0.50,10.88.0.50,255.255.255.0,2m",
        "--dhcp-option=option:dns-server,10.88.0.1",
        "--dhcp-option=option:domain-name,lab.example",
        "--dhcp-option=121,0.0.0.0/0,10.88.0.1,192.168.9.0/24,10.88.0.1",
        "--dhcp-option=26,1400",
        &leases,
    ];
    let dnsmasq = lab.start(&server, &words, &[], &server_log);
    let vector_boot = inputs().vector_boot().display().to_string();
    let run_text = run.display().to_string();
    let env = [
        ("VB_NET", "dhcp"),
        ("VB_NTP", "off"),
        ("VB_RUN", run_text.as_str()),
    ];
    lab.start(&client, &[&vector_boot, "net"], &env, &client_log);

    let logs = [server_log.clone(), client_log];
    let status = || text(&run.join("net/status.json"));
    let said = |what: &str| text(&server_log).matches(what).count();
    until("bound", &logs, || status().contains("\"state\":\"bound\""));
    assert!(lab.addresses().contains(ADDRESS) && lab.addresses().contains("mtu 1400"));
    let routes = ip(&["-n", &client, "route"]);
    for route in ["default via 10.88.0.1", "192.168.9.0/24 via 10.88.0.1"] {
        assert!(routes.contains(route), "{route}: {routes}");
    }
    let resolv = text(&run.join("net/resolv.conf"));
    assert!(
        resolv.ends_with("nameserver 10.88.0.1\nsearch lab.example\n"),
        "{resolv}"
    );

    let discoveries = said("DHCPDISCOVER(");
    until("renewed", &logs, || said("DHCPACK(") >= 2);
    until("bound again", &logs, || status().contains("\"leases\":2"));

    ip(&["-n", &server, "link", "set", "wire", "down"]);
    until("address given back", &logs, || {
        !lab.addresses().contains(ADDRESS)
    });
    ip(&["-n", &server, "link", "set", "wire", "up"]);
    until("the same address", &logs, || {
        lab.addresses().contains(ADDRESS)
    });
    assert_eq!(
        said("DHCPDISCOVER("),
        discoveries,
        "neither needed a discovery"
    );
    assert!(ip(&["-n", &client, "route"]).contains("default via 10.88.0.1"));

    lab.end(dnsmasq);
    until("lease over", &logs, || !lab.addresses().contains(ADDRESS));
    assert!(!text(&run.join("net/resolv.conf")).contains("nameserver"));
}
