//! The look for leftovers.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Everything on this machine that belongs to a cluster: namespaces, cgroups, mounts, processes, files.
pub fn belongings(name: &str) -> BTreeSet<String> {
    let mark = format!("ksg-{name}-");
    let dir = format!("/ksg-lab/{name}/");
    let mut found = BTreeSet::new();
    let mut note = |what: &str, path: &Path| found.insert(format!("{what} {}", path.display()));
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&mark) {
            note("namespace", &entry.path());
        }
    }
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        for group in fs::read_dir(hierarchy.path()).into_iter().flatten().flatten() {
            if group.file_name().to_string_lossy().starts_with(&mark) {
                note("cgroup", &group.path());
            }
        }
    }
    let state = lab::state::root().join(name);
    if state.exists() {
        note("folder", &state);
    }
    for line in fs::read_to_string("/proc/self/mounts").unwrap().lines().filter(|line| line.contains(&mark) || line.contains(&dir)) {
        note("mount", Path::new(line.split(' ').nth(1).unwrap()));
    }
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let path = process.path();
        if !path.join("stat").exists() || path.ends_with("self") || path.ends_with("thread-self") {
            continue;
        }
        let text = |file: &str| String::from_utf8_lossy(&fs::read(path.join(file)).unwrap_or_default()).replace('\0', " ");
        let command = text("cmdline");
        let mine = |text: &str| text.contains(&mark) || text.contains(&dir);
        if mine(&command) || mine(&text("cgroup")) {
            note(&format!("process {command:?}"), &path);
        }
    }
    found
}

/// Fails with what is left.
pub fn assert_gone(name: &str) {
    assert_eq!(belongings(name), BTreeSet::new());
}
