//! A program of ours in small: facts in one end, a fake kernel at the other.

use policy::index::{Key, Kind, Object};
use policy::model::NodeName;
use policy::{Cluster, Compiled, Compiler, Since, compile, resolve};
use ruleset::{FakeKernel, Kernel, Lowering, Ruleset, Transaction, diff, lower};

/// What a watch says.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An object is new, or has changed.
    Apply(Object),
    /// An object is gone.
    Delete(Key),
    /// The full list of a kind.
    Reset(Kind, Vec<Object>),
}

/// The policy of a node and the ruleset that it becomes, from these facts and nothing else.
pub fn from_scratch(cluster: &Cluster, node: &NodeName) -> (Compiled, Ruleset) {
    let compiled = compile(cluster, &resolve(cluster), node);
    let ruleset = lower(&compiled.policy);
    (compiled, ruleset)
}

/// The pipeline of one node, from index to kernel.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its node.
    pub node: NodeName,
    /// What it knows.
    pub cluster: Cluster,
    /// Where its rules are in force.
    pub kernel: FakeKernel,
    compiler: Compiler,
    lowering: Lowering,
    since: Since,
}

impl Program {
    /// One that knows nothing yet.
    pub fn new(node: &str) -> Program {
        let node = NodeName(node.into());
        Program {
            cluster: Cluster::default(),
            kernel: FakeKernel::new(),
            compiler: Compiler::new(node.clone()),
            lowering: Lowering::default(),
            since: Since::Anything,
            node,
        }
    }

    /// Takes what a watch says.
    pub fn take(&mut self, event: &Event) {
        match event {
            Event::Apply(object) => self.since.applied(object),
            Event::Delete(key) => self.since.deleted(key),
            Event::Reset(kind, _) => self.since.listed(*kind),
        }
        let _ = match event.clone() {
            Event::Apply(object) => self.cluster.apply(object),
            Event::Delete(key) => self.cluster.delete(&key),
            Event::Reset(kind, objects) => self.cluster.reset(kind, objects),
        };
    }

    /// Forgets everything but what its kernel has, as after a crash (S41).
    pub fn restart(&mut self) {
        *self = Program { kernel: self.kernel.clone(), ..Program::new(&self.node.0) };
    }

    /// What the facts ask for, made from what was there before.
    ///
    /// # Errors
    /// Says where that differs from what is made from nothing.
    fn follow(&mut self) -> Result<Ruleset, String> {
        let compiled = self.compiler.follow(&self.cluster, std::mem::replace(&mut self.since, Since::Slices));
        let ruleset = self.lowering.lower(&compiled.policy);
        let (right, wanted) = from_scratch(&self.cluster, &self.node);
        if *compiled != right {
            return Err(format!("compiled from what was before: {compiled:#?}\nfrom nothing: {right:#?}"));
        }
        if ruleset != wanted {
            return Err(format!("lowered from what was before: {ruleset}\nfrom nothing: {wanted}"));
        }
        Ok(ruleset)
    }

    /// Brings the kernel to what the facts ask for, in one transaction.
    ///
    /// # Errors
    /// Says what a kernel would refuse, and where the transaction does not lead where it should.
    pub fn sync(&mut self) -> Result<(), String> {
        let wanted = self.follow()?;
        let steps = match self.kernel.table() {
            Some(table) => diff(table, &wanted),
            None => Transaction::replace(&wanted),
        };
        self.kernel.commit(&steps).map_err(|error| format!("{error}\n{steps}"))?;
        match self.kernel.table() {
            Some(table) if *table == wanted => {}
            other => {
                return Err(format!(
                    "the steps lead elsewhere\nsteps:\n{steps}\nis: {}\nshould be: {wanted}",
                    other.cloned().unwrap_or_default()
                ));
            }
        }
        let again = diff(&wanted, &wanted);
        if again.is_empty() { Ok(()) } else { Err(format!("steps from a ruleset to itself:\n{again}")) }
    }
}
