//! From one TOML value to one meaning. Pure; the error is the reason and the
//! mend, the caller knows the place.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use super::StatusRange;
use super::name::{NAME_LENGTH_MAX, well_formed};
use super::problem::spelling;
use super::raw::kind;
use super::word::Word;

/// A string.
pub(super) fn text<'a>(value: &'a DeValue<'_>) -> Result<&'a str, String> {
    match value {
        DeValue::String(text) => Ok(text),
        other => Err(format!(
            "expected a string in quotes, found {}",
            kind(other)
        )),
    }
}

/// A whole number within `range`.
pub(super) fn number(value: &DeValue<'_>, range: RangeInclusive<u32>) -> Result<u32, String> {
    let DeValue::Integer(integer) = value else {
        return Err(format!("expected an integer, found {}", kind(value)));
    };
    // A number beyond 64 bits is out of every range too.
    let parsed = i64::from_str_radix(integer.as_str(), integer.radix());
    match parsed.map(u32::try_from) {
        Ok(Ok(number)) if range.contains(&number) => Ok(number),
        _ => {
            let (first, last) = (range.start(), range.end());
            Err(format!(
                "{integer} is out of range; write {first} to {last}"
            ))
        }
    }
}

/// A whole number within `range`, beyond 32 bits.
pub(super) fn long_number(value: &DeValue<'_>, range: RangeInclusive<u64>) -> Result<u64, String> {
    let DeValue::Integer(integer) = value else {
        return Err(format!("expected an integer, found {}", kind(value)));
    };
    match u64::from_str_radix(integer.as_str(), integer.radix()) {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => {
            let (first, last) = (range.start(), range.end());
            Err(format!(
                "{integer} is out of range; write {first} to {last}"
            ))
        }
    }
}

/// `true` or `false`.
pub(super) fn truth(value: &DeValue<'_>) -> Result<bool, String> {
    match value {
        DeValue::Boolean(truth) => Ok(*truth),
        other => Err(format!("expected true or false, found {}", kind(other))),
    }
}

/// A TCP port.
pub(super) fn port(value: &DeValue<'_>) -> Result<u16, String> {
    let number = number(value, 1..=u32::from(u16::MAX))?;
    u16::try_from(number).map_err(|_| format!("{number} is no port"))
}

/// One of the words of an enum.
pub(super) fn word<W: Word>(value: &DeValue<'_>) -> Result<W, String> {
    let text = text(value)?;
    let found = W::ALL.iter().find(|known| known.word() == text);
    found.copied().ok_or_else(|| {
        let known: Vec<&str> = W::ALL.iter().map(|known| known.word()).collect();
        format!("unknown word \"{text}\"; {}", spelling(text, &known))
    })
}

/// The name of a pool, a service or a server.
pub(super) fn name(text: &str) -> Result<&str, String> {
    if well_formed(text) {
        return Ok(text);
    }
    Err(format!(
        "\"{text}\" is no name; use letters, digits, \"-\", \"_\" and \".\", \
         the first a letter or digit, at most {NAME_LENGTH_MAX}"
    ))
}

/// A duration within `range`: a string with units.
pub(super) fn duration(
    value: &DeValue<'_>,
    range: RangeInclusive<Duration>,
) -> Result<Duration, String> {
    if let DeValue::Integer(number) = value {
        return Err(format!(
            "{number} has no unit; write \"{number}ms\" or \"{number}s\""
        ));
    }
    let text = text(value)?;
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "\"{text}\" has no unit; write \"{text}ms\" or \"{text}s\""
        ));
    }
    let duration = humantime::parse_duration(text).map_err(|_| {
        format!("\"{text}\" is no duration; write a number and a unit: \"100ms\", \"2s\", \"5m\"")
    })?;
    if range.contains(&duration) {
        return Ok(duration);
    }
    let first = humantime::format_duration(*range.start());
    let last = humantime::format_duration(*range.end());
    Err(format!(
        "\"{text}\" is out of range; write \"{first}\" to \"{last}\""
    ))
}

/// An address that packets can be steered to or from.
pub(super) fn address(value: &DeValue<'_>) -> Result<IpAddr, String> {
    let text = text(value)?;
    if text.parse::<SocketAddr>().is_ok() {
        return Err(format!("\"{text}\" has a port; write the address alone"));
    }
    let address: IpAddr = text.parse().map_err(|_| {
        format!("\"{text}\" is no IP address; write it like \"10.0.0.1\" or \"fd00::1\"")
    })?;
    unicast(address)?;
    Ok(address)
}

/// An address and a port that connections can be steered to.
pub(super) fn socket_address(value: &DeValue<'_>) -> Result<SocketAddr, String> {
    server_address(text(value)?)
}

/// The same, from a text.
pub(super) fn server_address(text: &str) -> Result<SocketAddr, String> {
    let Ok(socket) = text.parse::<SocketAddr>() else {
        return Err(no_socket_address(text));
    };
    unicast(socket.ip())?;
    if text.contains('%') {
        return Err(format!(
            "\"{text}\" has a zone; write the address without it"
        ));
    }
    if socket.port() == 0 {
        return Err(format!("\"{text}\" has port 0; ports are 1 to 65535"));
    }
    Ok(socket)
}

fn no_socket_address(text: &str) -> String {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<Ipv6Addr>().is_ok() {
        return format!("\"{text}\" has no port; write \"[{bare}]:PORT\"");
    }
    if text.parse::<Ipv4Addr>().is_ok() {
        return format!("\"{text}\" has no port; write \"{text}:PORT\"");
    }
    let is_address = |host: &str| {
        let inner = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        host.parse::<Ipv4Addr>().is_ok()
            || inner.is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok())
    };
    match text.rsplit_once(':') {
        Some((host, port)) if is_address(host) => {
            format!("\"{port}\" is no port; ports are 1 to 65535")
        }
        Some((host, _)) if !host.contains(':') && host.contains(|c: char| c.is_alphabetic()) => {
            format!("\"{host}\" is no IP address; names are not looked up: write the address")
        }
        Some(_) | None => format!(
            "\"{text}\" is no address and port; write it like \"10.0.0.1:8080\" or \"[fd00::1]:8080\""
        ),
    }
}

/// Refuses the addresses that no single host on a network can have.
pub(super) fn unicast(address: IpAddr) -> Result<(), String> {
    let any = match address {
        IpAddr::V4(address) => address.octets()[0] == 0,
        IpAddr::V6(address) => address.is_unspecified(),
    };
    let reason = if any {
        "is no host's address: it means \"any\""
    } else if address.is_loopback() {
        "is a loopback address: its packets never reach a NIC"
    } else if address.is_multicast() {
        "is a multicast address: TCP has no use for it"
    } else {
        match address {
            IpAddr::V4(address) if address.is_broadcast() => {
                "is the broadcast address: TCP has no use for it"
            }
            IpAddr::V6(address) if address.is_unicast_link_local() => {
                "is a link-local address: it means another host on every link"
            }
            IpAddr::V6(address) => match address.to_ipv4_mapped() {
                Some(mapped) => return Err(format!("{address} is IPv4; write {mapped}")),
                None => return Ok(()),
            },
            IpAddr::V4(_) => return Ok(()),
        }
    };
    Err(format!("{address} {reason}; write the address of one host"))
}

/// A prefix, spelt without a bit beyond its length.
pub(super) fn prefix(value: &DeValue<'_>) -> Result<IpNet, String> {
    let text = text(value)?;
    if let Ok(address) = text.parse::<IpAddr>() {
        let whole = IpNet::from(address);
        return Err(format!("\"{text}\" has no length; write \"{whole}\""));
    }
    let prefix: IpNet = text.parse().map_err(|_| {
        format!("\"{text}\" is no prefix; write it like \"10.0.0.0/8\" or \"fd00::/8\"")
    })?;
    let proper = prefix.trunc();
    if proper != prefix {
        return Err(format!(
            "\"{text}\" has bits beyond its length; write \"{proper}\""
        ));
    }
    Ok(prefix)
}

/// `IPv4` or `IPv6`.
pub(super) const fn family(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

/// A range of source ports: `"1024-32767"`. Below 1024 a server may take a
/// connection for one of a privileged program.
pub(super) fn port_range(value: &DeValue<'_>) -> Result<RangeInclusive<u16>, String> {
    let text = text(value)?;
    let malformed = || format!("\"{text}\" is no range of ports; write it like \"1024-32767\"");
    let (first, last) = text.split_once('-').ok_or_else(malformed)?;
    let first: u16 = first.trim().parse().map_err(|_| malformed())?;
    let last: u16 = last.trim().parse().map_err(|_| malformed())?;
    if first > last {
        return Err(format!("\"{text}\" is reversed; write \"{last}-{first}\""));
    }
    if first < 1024 {
        return Err(format!(
            "\"{text}\" has privileged ports; begin at 1024 or above"
        ));
    }
    Ok(first..=last)
}

/// The path of an HTTP request. What could end the request line early or
/// smuggle a header into it is refused.
pub(super) fn path(value: &DeValue<'_>) -> Result<String, String> {
    let text = text(value)?;
    if !text.starts_with('/') {
        return Err(format!(
            "\"{text}\" does not begin with \"/\"; write \"/{text}\""
        ));
    }
    let odd = |found: &char| !found.is_ascii_graphic() || *found == '#';
    match text.chars().find(odd) {
        Some(found) => Err(format!("a path cannot contain {found:?}; write it as %XX")),
        None => Ok(text.to_owned()),
    }
}

/// Status codes: `200`, `"200-399"`, or an array of such.
pub(super) fn status_ranges(value: &DeValue<'_>) -> Result<Vec<StatusRange>, String> {
    let DeValue::Array(array) = value else {
        return Ok(vec![status_range(value)?]);
    };
    if array.is_empty() {
        return Err("no status is good; write one, such as 200".to_owned());
    }
    array
        .iter()
        .map(|entry| status_range(entry.get_ref()))
        .collect()
}

fn status_range(value: &DeValue<'_>) -> Result<StatusRange, String> {
    let (first, last) = match value {
        DeValue::Integer(number) => (number.as_str(), number.as_str()),
        DeValue::String(text) => text.split_once('-').unwrap_or((text, text)),
        other => {
            let found = kind(other);
            return Err(format!(
                "expected a status such as 200 or \"200-299\", found {found}"
            ));
        }
    };
    let code = |text: &str| {
        let code = text.trim().parse::<u16>().ok();
        code.filter(|code| (100..=599).contains(code))
            .ok_or_else(|| format!("\"{text}\" is no HTTP status; write 100 to 599"))
    };
    let (first, last) = (code(first)?, code(last)?);
    if first > last {
        return Err(format!(
            "\"{first}-{last}\" is reversed; write \"{last}-{first}\""
        ));
    }
    Ok(StatusRange { first, last })
}

/// The name of a network interface, as the kernel allows it (`dev_valid_name`).
pub(super) fn interface(value: &DeValue<'_>) -> Result<String, String> {
    let text = text(value)?;
    interface_name(text).map(str::to_owned)
}

/// As `interface`, for a name from elsewhere than the file.
pub(crate) fn interface_name(text: &str) -> Result<&str, String> {
    let odd = |found: char| found == '/' || found == ':' || found.is_whitespace();
    if text.is_empty() || text.len() > 15 || text == "." || text == ".." || text.contains(odd) {
        return Err(format!(
            "\"{text}\" is no interface name; `ip link` lists the interfaces"
        ));
    }
    Ok(text)
}
