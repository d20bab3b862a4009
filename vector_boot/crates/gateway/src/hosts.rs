//! Which names this gateway answers to, and which web pages may call it.
//!
//! A page of a stranger can make a browser connect here under a name of its own that it points at us
//! (DNS rebinding). The browser then tells that name in `Host`, and the page's own in `Origin`.
//!
//! Pure. Start with [`Hosts::allows`].

use std::net::IpAddr;

/// The names allowed beside an address of ours, in lower case and without ports.
#[derive(Debug, Clone, Default)]
pub struct Hosts(Vec<String>);

impl Hosts {
    /// The loopback's names, the machine's own name and those configured.
    pub fn new(more: impl IntoIterator<Item = String>) -> Self {
        let loopback = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned);
        let all = loopback.into_iter().chain(more);
        Self(all.map(|h| h.trim().to_ascii_lowercase()).collect())
    }

    /// Whether a `Host` header names us; `local` is the address that the connection came in on.
    #[must_use]
    pub fn allows(&self, host: &str, local: Option<IpAddr>) -> bool {
        let Some(name) = without_port(host) else {
            return false;
        };
        let name = name.to_ascii_lowercase();
        let own = match local.map(|l| l.to_canonical()) {
            Some(IpAddr::V4(ip)) => ip.to_string() == name,
            Some(IpAddr::V6(ip)) => format!("[{ip}]") == name,
            None => false,
        };
        own || self.0.contains(&name)
    }

    /// Whether a page of this origin may call: `http` or `https` of an allowed host.
    #[must_use]
    pub fn allows_origin(&self, origin: &str, local: Option<IpAddr>) -> bool {
        let host = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        host.is_some_and(|h| self.allows(h, local))
    }
}

/// Takes `:PORT` off; `None` if what remains is no host.
fn without_port(host: &str) -> Option<&str> {
    let end = match host.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => host.find(':').unwrap_or(host.len()),
    };
    let (name, port) = host.split_at_checked(end)?;
    let digits = port.strip_prefix(':').unwrap_or(port);
    let good =
        digits.bytes().all(|b| b.is_ascii_digit()) && (port.is_empty() || port.starts_with(':'));
    (good && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_our_own_names_are_served() {
        let hosts = Hosts::new(["Box.Example".to_owned()]);
        let local: IpAddr = "10.0.2.15".parse().unwrap();
        for good in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:1",
            "[::1]:80",
            "box.example",
            "10.0.2.15:8080",
        ] {
            assert!(hosts.allows(good, Some(local)), "{good}");
        }
        for bad in [
            "",
            ":80",
            "evil.example",
            "localhost.evil.example",
            "localhost:80x",
            "localhost:80:80",
            "10.0.2.16",
            "[::1",
            "[::2]",
            "[::1]x",
            "user@localhost",
            "127.0.0.1.",
        ] {
            assert!(!hosts.allows(bad, Some(local)), "{bad}");
        }
        assert!(hosts.allows_origin("http://localhost:3000", None));
        for bad in [
            "null",
            "https://evil.example",
            "file://localhost",
            "localhost",
            "http://",
        ] {
            assert!(!hosts.allows_origin(bad, None), "{bad}");
        }
        let six: IpAddr = "::ffff:10.0.2.15".parse().unwrap();
        assert!(hosts.allows("10.0.2.15", Some(six)));
    }

    proptest! {
        #[test]
        fn no_header_panics(host in "[\\[\\]:.a-z0-9é@/ ]{0,20}") {
            let _ = Hosts::new([]).allows(&host, None);
            let _ = Hosts::new([]).allows_origin(&format!("http://{host}"), None);
        }
    }
}
