//! Starts that cannot succeed, and hosts that change under a running agent:
//! what `lb` says names the fault and the mend, and nothing is left.

use std::fs::{self, Permissions};
use std::net::SocketAddrV4;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use lb_tests::balancer::{Balancer, Configuration, Entry, Hook};
use lb_tests::binaries;
use lb_tests::lab::{Lab, NIC, Namespace, Spec, address};
use lb_tests::patience::wait_until;
use lb_tests::privileged;

use super::site::nic;
use super::{PATIENCE, Site, spec_for};

/// A start of `lb` in a lab of its own, which is to fail.
struct Start {
    lab: Lab,
    interface: &'static str,
    run_dir: PathBuf,
    bpffs: PathBuf,
    user: u32,
}

impl Start {
    /// One that would succeed.
    fn new() -> Self {
        Self::in_lab(&Spec::for_test(1))
    }

    fn in_lab(spec: &Spec) -> Self {
        let lab = Lab::new(spec).unwrap();
        Self {
            interface: NIC,
            run_dir: lab.run_directory().to_owned(),
            bpffs: lab.bpffs().to_owned(),
            user: 0,
            lab,
        }
    }

    fn refused(self) -> Refused {
        let Self {
            lab,
            interface,
            run_dir,
            bpffs,
            user,
        } = self;
        let toml = Configuration::for_nodes(&lab).to_toml();
        let file = lab.run_directory().join("lb.toml");
        fs::write(&file, toml).unwrap();
        let mut command = Command::new(binaries::find("lb").unwrap());
        command.args(["run", "--interface", interface, "--config"]);
        command.arg(file).arg("--run-dir").arg(run_dir);
        command.arg("--bpffs").arg(bpffs).uid(user).gid(user);
        let output = lab.balancer().enter(move || command.output()).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        Refused { lab, said }
    }
}

/// What `lb` said, and where.
struct Refused {
    lab: Lab,
    said: String,
}

impl Refused {
    /// That each of these was said, in one line, and that nothing is left.
    #[track_caller]
    fn says(&self, texts: &[&str]) {
        let Self { lab, said } = self;
        for text in texts {
            assert!(said.contains(text), "no {text:?} in: {said}");
        }
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!lab.bpffs().join("lb").exists());
        assert!(!lab.run_directory().join("lb.sock").exists());
        assert!(!nic(lab, "ip", &["link", "show"]).contains("prog/xdp"));
        let vip = address::VIP.to_string();
        assert!(!nic(lab, "ip", &["address", "show", "dev"]).contains(&vip));
    }
}

#[test]
fn an_interface_that_does_not_exist_is_named_with_those_that_do() {
    privileged!();
    let mut start = Start::new();
    start.interface = "eth7";
    let refused = start.refused();
    refused.says(&["there is no interface eth7", "there are: lo, eth0"]);
}

#[test]
fn an_interface_without_native_xdp_is_refused_with_the_other_hook_as_a_mend() {
    privileged!();
    let mut start = Start::new();
    start.interface = "lo";
    let refused = start.refused();
    refused.says(&["lo does not take the program as xdp-native", "xdp-generic"]);
}

#[test]
fn an_mtu_that_is_too_large_for_native_xdp_is_refused_with_its_mend() {
    privileged!();
    // The peer's own program would keep its MTU small.
    let start = Start::in_lab(&Spec::for_test(1).without_peer_program());
    ip(start.lab.switch(), "link set balancer mtu 9000");
    let refused = start.refused();
    refused.says(&["eth0 does not take the program", "lower the MTU"]);
}

#[test]
fn without_root_the_start_says_what_is_missing() {
    privileged!();
    const NOBODY: u32 = 65534;
    let mut start = Start::new();
    start.user = NOBODY;
    let refused = start.refused();
    refused.says(&["lb.sock", "run lb as root"]);

    let mut start = Start::new();
    start.user = NOBODY;
    fs::set_permissions(&start.run_dir, Permissions::from_mode(0o777)).unwrap();
    start.refused().says(&["needs root", "CAP_BPF"]);
}

#[test]
fn a_run_directory_that_is_none_is_named() {
    privileged!();
    let mut start = Start::new();
    start.run_dir = "/proc/version".into();
    let refused = start.refused();
    refused.says(&["/proc/version/lb.sock", "choose another --run-dir"]);
}

#[test]
fn a_file_that_is_no_bpffs_is_named() {
    privileged!();
    let mut start = Start::new();
    start.bpffs = "/proc/version".into();
    let refused = start.refused();
    refused.says(&["/proc/version is no BPF file system", "mount -t bpf"]);
}

#[test]
fn servers_without_a_way_and_a_foreign_source_address_are_warned_of() {
    privileged!();
    let mut site = Site::start(|configuration| {
        let elsewhere = SocketAddrV4::new([172, 31, 9, 9].into(), 8081);
        configuration.servers.push(Entry::new("n4", elsewhere));
    });
    let output = site.balancer.output();
    assert!(output.contains("no way to the server server=172.31.9.9"));
    assert!(output.contains("the host has no route to it"), "{output}");
    assert!(site.balancer.terminate().unwrap().success());

    let lab = Lab::new(&Spec::for_test(1)).unwrap();
    let mut configuration = Configuration::for_nodes(&lab);
    configuration.top = "snat = { address = \"10.87.0.99\" }".to_owned();
    let mut balancer = Balancer::start(&lab, &configuration).unwrap();
    let warned = wait_until(PATIENCE, || {
        let output = balancer.output();
        output.contains("source address is none of this host's")
            && output.contains("address=10.87.0.99")
    });
    assert!(warned, "{}", balancer.output());
    assert!(balancer.terminate().unwrap().success());
}

#[test]
fn when_its_interface_is_removed_the_agent_says_so_and_ends_and_the_next_one_adopts() {
    privileged!();
    let mut site = Site::with(&spec_for(Hook::Generic), Hook::Generic, |_| {});
    drop(site.connect().unwrap());
    nic(&site.lab, "ip", &["link", "del"]);
    assert!(wait_until(PATIENCE, || site
        .balancer
        .exit_status()
        .is_some()));
    let status = site.balancer.exit_status().unwrap();
    assert_eq!(status.code(), Some(1));
    let output = site.balancer.output();
    let fault = "the interface eth0 is gone; start lb again when it is back";
    assert!(output.contains(fault), "{output}");

    attach_new_nic(&site.lab);
    site.balancer.kill().unwrap();
    site.balancer.start_again().unwrap();
    site.wait_for_all_targets();
    assert!(site.balancer.output().contains("adopted=true"));
    site.connect().unwrap().ping().unwrap();
    assert!(site.balancer.terminate().unwrap().success());
}

/// Gives the balancer a NIC of the same name in place of the removed one.
fn attach_new_nic(lab: &Lab) {
    let (own, length) = (address::BALANCER, address::PREFIX);
    let name = lab.balancer().name();
    let pair = format!("link add balancer type veth peer name {NIC} netns {name}");
    ip(lab.switch(), &pair);
    ip(lab.switch(), "link set balancer master br0 up");
    let address = format!("address add {own}/{length} dev {NIC}");
    ip(lab.balancer(), &address);
    ip(lab.balancer(), &format!("link set {NIC} up"));
}

fn ip(namespace: &Namespace, line: &str) {
    let mut ip = Command::new("ip");
    ip.args(["-n", namespace.name()]).args(line.split(' '));
    assert!(ip.status().unwrap().success(), "{line}");
}
