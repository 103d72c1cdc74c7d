//! What labs leave on the machine, and where.

use std::fs;

/// Namespaces, links in root's namespace, records, directories, mounts and
/// processes, of all labs whose name `belongs` knows.
pub fn footprint(belongs: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    // A directory, and the part of an entry's name that is not the lab's.
    let places = [
        ("/run/netns", ""),
        ("/sys/class/net", ""),
        ("/run/lb-lab", ""),
        ("/var/tmp", "lb-lab-"),
    ];
    for (directory, before) in places {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name
                .strip_prefix(before)
                .is_some_and(|name| belongs(lab(name)))
            {
                found.push(entry.path().display().to_string());
            }
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    for line in mounts.lines() {
        let point = line.split(' ').nth(1).unwrap_or_default();
        let inside = ["/run/netns/", "/run/lb-lab/"];
        let name = inside.iter().find_map(|place| point.strip_prefix(place));
        if name.is_some_and(|name| belongs(lab(name))) {
            found.push(line.to_owned());
        }
    }
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let variables = String::from_utf8_lossy(&environment).into_owned();
        let mut names = variables
            .split('\0')
            .filter_map(|one| one.strip_prefix("LB_LAB="));
        if names.any(&belongs) {
            let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push(format!("{} {}", entry.path().display(), command.trim()));
        }
    }
    found.sort();
    found
}

/// The lab's name: what a name begins with, up to `-client`, `.json`, `/bpf`.
fn lab(name: &str) -> &str {
    name.split(['-', '.', '/']).next().unwrap_or_default()
}
