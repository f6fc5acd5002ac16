//! `ports`, `expose`, `extra_hosts`, `dns`, `network_mode`, `ipc`.

use convoke_model::PortMapping;

use crate::cursor::Cursor;
use crate::report::Report;

/// Ports that one range may open; more is a mistake.
const MAX_RANGE: u16 = 1_024;

pub(super) fn ports(service: &Cursor<'_>, report: &mut Report) -> Vec<PortMapping> {
    let items = service.get("ports").map(|p| p.items(report, "ports")).unwrap_or_default();
    let mut ports = Vec::new();
    for at in items {
        if at.is_map() {
            ports.extend(long(&at, report));
        } else if let Some(text) = at.text(report) {
            match short(text) {
                Ok(mappings) => ports.extend(mappings),
                Err(why) => at.refuse(report, format!("\"{text}\": {why}")),
            }
        }
    }
    // One file may write short what another one writes long; the engine takes each mapping once.
    let mut seen = Vec::new();
    ports.retain(|port| {
        !seen.contains(port) && {
            seen.push(port.clone());
            true
        }
    });
    ports
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|p| *p != 0).ok_or(format!("\"{text}\" is not a port (1 to 65535)"))
}

/// `8000` or `8000-8010`, first and last.
fn range(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if last < first {
        return Err(format!("range \"{text}\" ends before it starts"));
    }
    if last - first >= MAX_RANGE {
        return Err(format!("range \"{text}\" holds more than {MAX_RANGE} ports"));
    }
    Ok((first, last))
}

/// `[[IP:]HOST:]CONTAINER[/PROTOCOL]`, with ranges.
fn short(text: &str) -> Result<Vec<PortMapping>, String> {
    let (rest, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    if !matches!(protocol, "tcp" | "udp") {
        return Err(format!("protocol \"{protocol}\" is neither tcp nor udp"));
    }
    let (rest, target) = rest.rsplit_once(':').map_or((None, rest), |(r, t)| (Some(r), t));
    // An IPv6 address holds colons itself, and stands in brackets.
    let (ip, host) = match rest {
        None => (None, None),
        Some(rest) => match rest.rsplit_once(':') {
            Some((ip, host)) => (Some(ip.trim_start_matches('[').trim_end_matches(']')), Some(host)),
            None => (None, Some(rest)),
        },
    };
    if let Some(ip) = ip
        && ip.parse::<std::net::IpAddr>().is_err()
    {
        return Err(format!("\"{ip}\" is not an IP address"));
    }
    let (first, last) = range(target)?;
    let host = host.filter(|h| !h.is_empty()).map(range).transpose()?;
    let mapping = |target: u16, published: Option<String>| PortMapping {
        host_ip: ip.map(ToOwned::to_owned),
        published,
        target,
        protocol: protocol.to_owned(),
    };
    match host {
        None => Ok((first..=last).map(|t| mapping(t, None)).collect()),
        Some((from, to)) if to - from == last - first => {
            Ok((first..=last).zip(from..=to).map(|(t, p)| mapping(t, Some(p.to_string()))).collect())
        }
        Some((from, to)) if first == last => Ok(vec![mapping(first, Some(format!("{from}-{to}")))]),
        Some(_) => Err("the two ranges differ in length".to_owned()),
    }
}

fn long(at: &Cursor<'_>, report: &mut Report) -> Option<PortMapping> {
    at.only(report, &["target", "published", "host_ip", "protocol", "mode", "name", "app_protocol"], &[]);
    if let Some(mode) = at.get("mode") {
        mode.word(report, &[("host", ()), ("ingress", ())])?;
    }
    let Some(target) = at.get("target") else {
        at.refuse(report, "needs a \"target\", the port inside the container");
        return None;
    };
    let check = |at: &Cursor<'_>, report: &mut Report| match range(at.text(report)?) {
        Ok(range) => Some(range),
        Err(why) => {
            at.refuse(report, why);
            None
        }
    };
    let (target, _) = check(&target, report)?;
    let published = match at.get("published") {
        Some(published) => {
            check(&published, report)?;
            published.string(report)
        }
        None => None,
    };
    let protocol = match at.get("protocol") {
        Some(protocol) => protocol.word(report, &[("tcp", "tcp"), ("udp", "udp")])?,
        None => "tcp",
    };
    let host_ip = at.get("host_ip").and_then(|h| h.string(report));
    Some(PortMapping { host_ip, published, target, protocol: protocol.to_owned() })
}

pub(super) fn expose(service: &Cursor<'_>, report: &mut Report) -> Vec<String> {
    let mut exposed = Vec::new();
    for at in service.get("expose").map(|e| e.items(report, "ports")).unwrap_or_default() {
        let Some(text) = at.string(report) else { continue };
        let (number, protocol) = text.split_once('/').unwrap_or((&text, "tcp"));
        match range(number) {
            Ok(_) if matches!(protocol, "tcp" | "udp") => exposed.push(text),
            Ok(_) => at.refuse(report, format!("protocol \"{protocol}\" is neither tcp nor udp")),
            Err(why) => at.refuse(report, why),
        }
    }
    exposed
}

/// As `HOST:ADDRESS`, from a list of `HOST:ADDRESS` or `HOST=ADDRESS`, or a map.
pub(super) fn extra_hosts(service: &Cursor<'_>, report: &mut Report) -> Vec<String> {
    let Some(at) = service.get("extra_hosts") else { return Vec::new() };
    let mut pairs = Vec::new();
    if at.is_map() {
        for (entry, at) in at.entries(report) {
            for address in at.one_or_more(report, "addresses") {
                pairs.extend(address.text(report).map(|a| (entry.key.as_str(), a, address.clone())));
            }
        }
    } else {
        for at in at.items(report, "HOST:ADDRESS strings, or a map") {
            let Some(text) = at.text(report) else { continue };
            let (host, address) = text.split_once('=').or_else(|| text.split_once(':')).unwrap_or((text, ""));
            pairs.push((host, address, at));
        }
    }
    let mut hosts = Vec::new();
    for (host, address, at) in pairs {
        if host.is_empty() || host.contains([':', '=']) || address.is_empty() {
            at.refuse(report, format!("expected HOST:ADDRESS, found \"{host}:{address}\""));
        } else if !is_host_address(address) {
            at.refuse(report, format!("\"{address}\" is no IP address; host-gateway is the node itself"));
        } else {
            hosts.push(format!("{host}:{address}"));
        }
    }
    hosts
}

fn is_host_address(text: &str) -> bool {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    text == "host-gateway" || bare.parse::<std::net::IpAddr>().is_ok()
}

/// Addresses of name servers.
pub(super) fn dns(at: &Cursor<'_>, report: &mut Report) -> Vec<String> {
    let servers = at.one_or_more(report, "addresses").into_iter().filter_map(|at| {
        let text = at.string(report)?;
        if text.parse::<std::net::IpAddr>().is_err() {
            at.refuse(report, format!("\"{text}\" is not an IP address"));
            return None;
        }
        Some(text)
    });
    servers.collect()
}

/// `network_mode`: a word of the engine's, or a network that the nodes' engines have.
pub(super) fn network_mode(at: Option<Cursor<'_>>, report: &mut Report) -> Option<String> {
    let mode = mode(at.as_ref()?, "host, bridge or none", report)?;
    if !matches!(mode.as_str(), "host" | "bridge" | "none" | "default") {
        at?.note(
            report,
            format!("network \"{mode}\" is not made by Convoke: every node's engine must have it"),
        );
    }
    Some(mode)
}

/// `ipc`: a word of the engine's.
pub(super) fn ipc(at: Option<Cursor<'_>>, report: &mut Report) -> Option<String> {
    let at = at?;
    let mode = mode(&at, "host, private or shareable", report)?;
    if matches!(mode.as_str(), "host" | "private" | "shareable" | "none") {
        return Some(mode);
    }
    at.refuse(report, format!("expected host, private, shareable or none, found \"{mode}\""));
    None
}

/// A mode that shares nothing with another container: that one may be on another node.
fn mode(at: &Cursor<'_>, instead: &str, report: &mut Report) -> Option<String> {
    let text = at.string(report)?;
    if text.starts_with("service:") || text.starts_with("container:") {
        at.refuse(
            report,
            format!(
                "\"{text}\": sharing with another container is not supported by Convoke, it may be on another \
                 node; use {instead}"
            ),
        );
        return None;
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn show(text: &str) -> Vec<String> {
        let one = |p: PortMapping| {
            format!(
                "{:?} {:?} {}/{}",
                p.host_ip.unwrap_or_default(),
                p.published.unwrap_or_default(),
                p.target,
                p.protocol
            )
        };
        short(text).unwrap().into_iter().map(one).collect()
    }

    #[test]
    fn short_ports_are_understood() {
        assert_eq!(show("80"), ["\"\" \"\" 80/tcp"]);
        assert_eq!(show("8080:80/udp"), ["\"\" \"8080\" 80/udp"]);
        assert_eq!(show("127.0.0.1:8080:80"), ["\"127.0.0.1\" \"8080\" 80/tcp"]);
        assert_eq!(show("[::1]::80"), ["\"::1\" \"\" 80/tcp"]);
        assert_eq!(show("90-91:80-81"), ["\"\" \"90\" 80/tcp", "\"\" \"91\" 81/tcp"]);
        assert_eq!(show("90-95:80"), ["\"\" \"90-95\" 80/tcp"]);
        for bad in ["", "0", "99999", "x:80", "80/sctp", "90-91:80-82", "9-1", "1-60000", "h:1:2"] {
            assert!(short(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_port_text_is_read_or_refused(text in "[0-9:/\\-.\\[\\]a-z]{0,24}") {
            let _ = short(&text);
        }
    }
}
