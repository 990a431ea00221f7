//! One process that is ready to be asked: what it said of itself, and whose requests it has served.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::super::auth::Identity;
use super::super::exchange::Exchange;
use super::super::methods;
use super::super::relay::modern_child::ToolList;
use super::super::relay::modern_to_modern::ToolHeaders;
use super::OwnListen;
use crate::mcp::connection::Connection;
use crate::mcp::members::Members;
use crate::mcp::probe::Opened;
use crate::mcp::version::Era;

/// What a server said of itself when it was opened.
#[derive(Debug)]
pub(in crate::bridge) struct Facts {
    /// Its `capabilities`, as it wrote them.
    pub(in crate::bridge) capabilities: String,
    server_info: Option<String>,
}

impl Facts {
    pub(super) fn read(opened: &Opened) -> Self {
        let result = std::str::from_utf8(&opened.result).ok().and_then(|text| Members::read(text).ok());
        let result = result.unwrap_or_default();
        let meta = result.object("_meta");
        let server_info = match opened.era {
            Era::Legacy => result.text("serverInfo"),
            Era::Modern => meta.as_ref().and_then(|meta| meta.text(methods::meta::SERVER_INFO)),
        };
        Self {
            capabilities: result.text("capabilities").unwrap_or("{}").to_owned(),
            server_info: server_info.filter(|info| info.starts_with('{')).map(str::to_owned),
        }
    }

    /// What it said which program it is, as JSON.
    pub(in crate::bridge) fn server_info(&self) -> Option<&str> {
        self.server_info.as_deref()
    }

    /// Whether it declared what stands at `path`.
    pub(in crate::bridge) fn declares(&self, path: &[&str]) -> bool {
        methods::declares(&self.capabilities, path)
    }

    pub(super) fn names(&self) -> BTreeSet<String> {
        let members = Members::read(&self.capabilities).unwrap_or_default();
        members.iter().map(|(name, _)| name.to_owned()).collect()
    }

    /// The `list_changed` notifications that it may send.
    pub(super) fn changing_lists(&self) -> impl Iterator<Item = String> {
        let changing = |list: &&str| self.declares(&[list, "listChanged"]);
        ["tools", "prompts", "resources"]
            .into_iter()
            .filter(move |list| changing(list))
            .map(|list| format!("notifications/{list}/list_changed"))
    }
}

/// One process that is ready to be asked.
pub(in crate::bridge) struct Live {
    pub(in crate::bridge) generation: u64,
    pub(in crate::bridge) opened: Opened,
    pub(in crate::bridge) facts: Arc<Facts>,
    pub(in crate::bridge) connection: Connection<Exchange>,
    /// A request was sent: deadlines have to be watched.
    pub(in crate::bridge) busy: Notify,
    /// Which tool arguments are mirrored in headers.
    pub(in crate::bridge) tool_headers: Mutex<ToolHeaders>,
    pub(in crate::bridge) tool_list: ToolList,
    /// What the legacy sessions hear of a modern server.
    pub(in crate::bridge) own_listen: OwnListen,
    gate: Mutex<Gate>,
    /// Whether it is yet to be told that its handshake is over.
    holds_initialized: AtomicBool,
    initialized: Mutex<()>,
}

/// Whose requests a process has served. From the second identity on nothing is guessed any more.
#[derive(Debug)]
enum Gate {
    Nobody,
    One(Identity),
    Several,
}

impl Live {
    pub(super) fn new(
        generation: u64,
        opened: Opened,
        connection: Connection<Exchange>,
        holds_initialized: bool,
    ) -> Self {
        Self {
            generation,
            facts: Arc::new(Facts::read(&opened)),
            holds_initialized: AtomicBool::new(holds_initialized && opened.era == Era::Legacy),
            opened,
            connection,
            busy: Notify::new(),
            tool_headers: Mutex::default(),
            tool_list: ToolList::default(),
            own_listen: OwnListen::default(),
            gate: Mutex::new(Gate::Nobody),
            initialized: Mutex::default(),
        }
    }

    /// Tells the server that its handshake is over, unless it knows: with its client's own word, or before whatever that
    /// client sends first, since POSTs have no order.
    pub(in crate::bridge) fn initialized(&self) {
        if !self.holds_initialized.load(Ordering::Acquire) {
            return;
        }
        let _once = self.initialized.lock().expect("nothing panics while it holds this");
        if self.holds_initialized.load(Ordering::Acquire) {
            self.connection.notify(methods::INITIALIZED, None);
            self.holds_initialized.store(false, Ordering::Release);
        }
    }

    /// Notes whose request it serves.
    pub(in crate::bridge) fn admit(&self, identity: &Identity) {
        let mut gate = self.gate.lock().expect("nothing panics while it holds the gate");
        match &*gate {
            Gate::Nobody => *gate = Gate::One(identity.clone()),
            Gate::One(known) if known != identity => *gate = Gate::Several,
            Gate::One(_) | Gate::Several => {}
        }
    }

    /// Whether everything it has served came from this identity, or nothing was served yet.
    pub(in crate::bridge) fn serves_only(&self, identity: &Identity) -> bool {
        match &*self.gate.lock().expect("nothing panics while it holds the gate") {
            Gate::Nobody => true,
            Gate::One(known) => known == identity,
            Gate::Several => false,
        }
    }

    /// Whether everything it has served came from one identity.
    pub(in crate::bridge) fn gate_open(&self) -> bool {
        !matches!(*self.gate.lock().expect("nothing panics while it holds the gate"), Gate::Several)
    }
}
