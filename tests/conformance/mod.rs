//! What others expect of a network policy, said with security groups: scenarios as data, and what each of them must allow and deny.
//!
//! `networkpolicy/` answers the 48 NetworkPolicy scenarios of Kubernetes' end-to-end tests, one file each; `cyclonus/` the families of the
//! 230 cases of Cyclonus. The `index.yaml` of each lists what there is to answer. `world.yaml` has the pods, their nodes and addresses,
//! `base.yaml` what the files of a folder share. The format:
//!
//! * `answers`: the number and name of the scenario upstream, or the family; `about`: how it is said with security groups.
//! * `pods`: who is there; `probe`: which traffic is tried between any two of them, over both families.
//! * `apply`: `SecurityGroup x/web: {spec}`, also `Attachment`, `PrefixList`, `Namespace x: {labels}`, `Pod x/a: {labels: {…}}`; `delete`.
//! * `expect`: lines `deny FROM… -> TO… : TRAFFIC…`; what no line speaks of is allowed, of several lines the last counts.
//! * `steps`: one after the other, each with its own `apply`, `delete` and `expect`. `cases`: several scenarios in one file.
//! * `let`: `$name` stands for the value; in a list, for the elements.
//!
//! Expectations are written by hand: nothing here knows what a rule means.

mod data;
mod expect;
mod programs;
mod report;

pub use data::{Kind, ObjectName, Probe, Scenario, Step, World, index, scenarios};
pub use expect::Line;
pub use programs::{Cell, Node, Programs};
pub use report::{Sightings, table};

use std::path::{Path, PathBuf};

/// The folder of the data.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance")
}

/// The folders of scenarios.
pub const FOLDERS: [&str; 2] = ["networkpolicy", "cyclonus"];
