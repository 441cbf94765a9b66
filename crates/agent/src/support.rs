//! Whether the node's kernel takes everything that rules consist of: looked at when the program starts, and where something is missing every
//! minute, since a module may come.

use std::io;
use std::time::Duration;

use api::{KernelReport, UnsupportedFeature};
use netlink::{Nftables, Unsupported};
use runtime::client::with_causes;
use runtime::condition::{Status, Wanted};
use tokio::sync::watch;

/// Between two looks.
const AGAIN: Duration = Duration::from_secs(60);
/// What `uname -r` says.
const RELEASE: &str = "/proc/sys/kernel/osrelease";

/// The kernel, and what it lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Support {
    version: String,
    found: Found,
    table_owner: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Found {
    /// Nothing is missing.
    #[default]
    Everything,
    /// This is.
    Lacks(Vec<Unsupported>),
    /// It did not say.
    Unknown(String),
}

impl Support {
    /// A kernel of this version that lacks this.
    pub fn of(version: String, found: Result<Vec<Unsupported>, netlink::Error>) -> Support {
        let found = match found {
            Ok(lacking) if lacking.is_empty() => Found::Everything,
            Ok(lacking) => Found::Lacks(lacking),
            Err(error) => Found::Unknown(with_causes(&error)),
        };
        Support { version, found, table_owner: false }
    }

    fn find_out() -> Support {
        let version = std::fs::read_to_string(RELEASE).map_or_else(|_| "unknown".into(), |text| text.trim().to_owned());
        let table_owner = Nftables::open_as_owner().is_ok_and(|kernel| kernel.is_owner());
        let support = Support { table_owner, ..Support::of(version, netlink::unsupported()) };
        match support.found {
            Found::Everything => tracing::info!("{}", support.message()),
            Found::Lacks(_) | Found::Unknown(_) => tracing::error!("{}", support.message()),
        }
        support
    }

    /// Whether some rule could not be put in force.
    pub fn lacks(&self) -> bool {
        matches!(self.found, Found::Lacks(_))
    }

    fn message(&self) -> String {
        let version = &self.version;
        match &self.found {
            Found::Everything => format!("Linux {version} takes everything that rules consist of"),
            Found::Lacks(lacking) => {
                let one =
                    |Unsupported { feature, error, provided_by }: &Unsupported| format!("{feature} ({error}): provided by {provided_by}");
                let all: Vec<String> = lacking.iter().map(one).collect();
                format!("nothing is in force here, because Linux {version} does not take what rules consist of: {}", all.join("; "))
            }
            Found::Unknown(error) => format!("whether Linux {version} takes everything that rules consist of cannot be found out: {error}"),
        }
    }

    /// The condition of the node's report.
    pub fn condition(&self) -> Wanted {
        let (status, reason) = match self.found {
            Found::Everything => (Status::True, "Supported"),
            Found::Lacks(_) => (Status::False, "KernelFeatureMissing"),
            // What is committed proves that the kernel takes it.
            Found::Unknown(_) => (Status::Unknown, "CannotTell"),
        };
        Wanted { type_: api::condition::KERNEL_SUPPORTED, status, reason: reason.into(), message: self.message() }
    }

    /// What stands in the node's report.
    pub fn report(&self) -> KernelReport {
        let told = |lacking: &Unsupported| UnsupportedFeature { feature: lacking.feature.into(), error: lacking.error.clone() };
        let lacking = if let Found::Lacks(lacking) = &self.found { lacking.as_slice() } else { &[] };
        let unsupported = lacking.iter().map(told).collect();
        KernelReport { version: self.version.clone(), unsupported, table_owner_supported: self.table_owner }
    }
}

/// Tells what the kernel takes, and tells on where something is missing. In the network namespace that the calling thread is in.
pub fn find_out(tell: watch::Sender<Support>) -> io::Result<()> {
    let is_settled = |support: &Support| support.found == Found::Everything;
    let support = Support::find_out();
    let settled = is_settled(&support);
    tell.send_replace(support);
    if settled {
        return Ok(());
    }
    let look = move || {
        while !tell.is_closed() && !is_settled(&tell.borrow()) {
            std::thread::sleep(AGAIN);
            let support = Support::find_out();
            tell.send_if_modified(|before| std::mem::replace(before, support.clone()) != support);
        }
    };
    std::thread::Builder::new().name("support".into()).spawn(look).map(drop)
}
