//! Which hooks are tried, and why: `auto` is decided here.

use std::collections::BTreeMap;

use super::Interface;
use crate::config::Hook;

/// A hook, and the reason for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Never [`Hook::Auto`].
    pub(super) hook: Hook,
    /// For the log.
    pub(super) why: String,
}

/// The hooks to try, one after the other. One alone where the configuration
/// names it: nothing takes its place. `virtual_links` says what kind of link
/// each interface is that has no device behind it.
pub(super) fn candidates(
    hook: Hook,
    interfaces: &[Interface],
    virtual_links: &BTreeMap<String, String>,
) -> Vec<Candidate> {
    let candidate = |hook, why: String| Candidate { hook, why };
    if hook != Hook::Auto {
        return vec![candidate(hook, "configured".to_owned())];
    }
    let mut names = interfaces.iter().map(|interface| &interface.name);
    if let Some((name, kind)) = names.find_map(|name| virtual_links.get_key_value(name)) {
        let why = format!(
            "{name} is a virtual link ({kind}), where whole socket buffers are quicker than frames"
        );
        return vec![candidate(Hook::Tc, why)];
    }
    vec![
        candidate(
            Hook::XdpNative,
            "there is a device behind each interface, and its driver has native XDP".to_owned(),
        ),
        candidate(
            Hook::Tc,
            "the driver has no native XDP, or not with this MTU".to_owned(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(hook: Hook, links: &[bool]) -> Vec<Hook> {
        let interface = |index| Interface {
            name: format!("eth{index}"),
            index,
        };
        let interfaces: Vec<Interface> = (0..).take(links.len()).map(interface).collect();
        let named = interfaces.iter().zip(links);
        let virtual_links = named
            .filter(|(_, is_virtual)| **is_virtual)
            .map(|(interface, _)| (interface.name.clone(), "veth".to_owned()))
            .collect();
        let candidates = candidates(hook, &interfaces, &virtual_links);
        candidates.into_iter().map(|one| one.hook).collect()
    }

    #[test]
    fn what_is_configured_is_taken_or_nothing() {
        for hook in [Hook::XdpNative, Hook::XdpGeneric, Hook::Tc] {
            assert_eq!(hooks(hook, &[true, false]), [hook]);
        }
    }

    #[test]
    fn auto_goes_by_what_is_behind_the_interfaces() {
        assert_eq!(hooks(Hook::Auto, &[true]), [Hook::Tc]);
        assert_eq!(hooks(Hook::Auto, &[false, true]), [Hook::Tc]);
        assert_eq!(
            hooks(Hook::Auto, &[false, false]),
            [Hook::XdpNative, Hook::Tc]
        );
    }
}
