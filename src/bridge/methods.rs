//! What ferry knows of each method: who has it, what it needs, what its result carries (`protocol.md` §1.1, §1.10).

use crate::mcp::members::Members;

/// Opens a legacy session.
pub const INITIALIZE: &str = "initialize";
/// Ends the opening of a legacy session.
pub const INITIALIZED: &str = "notifications/initialized";
/// Asks a legacy peer for a sign of life.
pub const PING: &str = "ping";
/// Asks a modern server what it is.
pub const DISCOVER: &str = "server/discover";
/// Lists tools.
pub const TOOLS_LIST: &str = "tools/list";
/// Calls a tool.
pub const TOOLS_CALL: &str = "tools/call";
/// Lists prompts.
pub const PROMPTS_LIST: &str = "prompts/list";
/// Reads a prompt.
pub const PROMPTS_GET: &str = "prompts/get";
/// Lists resources.
pub const RESOURCES_LIST: &str = "resources/list";
/// Lists resource templates.
pub const RESOURCE_TEMPLATES_LIST: &str = "resources/templates/list";
/// Reads a resource.
pub const RESOURCES_READ: &str = "resources/read";
/// Asks a legacy server to tell of changes to a resource.
pub const RESOURCES_SUBSCRIBE: &str = "resources/subscribe";
/// Asks a legacy server not to tell of them any more.
pub const RESOURCES_UNSUBSCRIBE: &str = "resources/unsubscribe";
/// Completes an argument.
pub const COMPLETE: &str = "completion/complete";
/// Sets how much a legacy server logs.
pub const SET_LEVEL: &str = "logging/setLevel";
/// Opens a modern stream of notifications.
pub const LISTEN: &str = "subscriptions/listen";
/// Reads the state of a task.
pub const TASKS_GET: &str = "tasks/get";
/// Waits for the result of a task (2025-11-25).
pub const TASKS_RESULT: &str = "tasks/result";
/// Cancels a task.
pub const TASKS_CANCEL: &str = "tasks/cancel";
/// Lists tasks (2025-11-25).
pub const TASKS_LIST: &str = "tasks/list";
/// Gives a task what it waits for (the tasks extension).
pub const TASKS_UPDATE: &str = "tasks/update";
/// Takes a request back.
pub const CANCELLED: &str = "notifications/cancelled";
/// Tells how far a request is.
pub const PROGRESS: &str = "notifications/progress";
/// Tells a legacy server that the client's roots changed.
pub const ROOTS_CHANGED: &str = "notifications/roots/list_changed";
/// A log message.
pub const LOG: &str = "notifications/message";
/// Server to client: have a model write something.
pub const CREATE_MESSAGE: &str = "sampling/createMessage";
/// Server to client: ask the user.
pub const ELICIT: &str = "elicitation/create";
/// Server to client: which directories is this about?
pub const ROOTS_LIST: &str = "roots/list";

/// Keys of `_meta` that the protocol itself uses (§1.3).
pub mod meta {
    /// The version of a modern request; that it is there, whatever it holds, makes a request modern.
    pub const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
    /// What the client of a modern request can do.
    pub const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
    /// Which program sent a modern request.
    pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
    /// How much the client of a modern request wants logged for it.
    pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
    /// The listen request that a notification belongs to.
    pub const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
    /// Which program answered.
    pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
    /// The legacy task that a message belongs to.
    pub const RELATED_TASK: &str = "io.modelcontextprotocol/related-task";
    /// What progress notifications of a request name.
    pub const PROGRESS_TOKEN: &str = "progressToken";
}

/// What ferry knows of one client-to-server request.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// Its name.
    pub name: &'static str,
    /// Whether the modern era has dropped it: 404 for every modern client.
    pub removed: bool,
    /// The path of the capability that a server must declare to have it; empty where it needs none.
    pub capability: &'static [&'static str],
    /// The member of `params` that `Mcp-Name` mirrors.
    pub named_by: Option<&'static str>,
    /// Whether its modern result carries `ttlMs` and `cacheScope`.
    pub cacheable: bool,
    /// Whether it may end in `input_required`.
    pub interactive: bool,
}

const PLAIN: Method =
    Method { name: "", removed: false, capability: &[], named_by: None, cacheable: false, interactive: false };

/// Every request of a client that ferry knows.
pub const METHODS: &[Method] = &[
    Method { name: INITIALIZE, removed: true, ..PLAIN },
    Method { name: PING, removed: true, ..PLAIN },
    Method { name: DISCOVER, cacheable: true, ..PLAIN },
    Method { name: TOOLS_LIST, capability: &["tools"], cacheable: true, ..PLAIN },
    Method { name: TOOLS_CALL, capability: &["tools"], named_by: Some("name"), interactive: true, ..PLAIN },
    Method { name: PROMPTS_LIST, capability: &["prompts"], cacheable: true, ..PLAIN },
    Method { name: PROMPTS_GET, capability: &["prompts"], named_by: Some("name"), interactive: true, ..PLAIN },
    Method { name: RESOURCES_LIST, capability: &["resources"], cacheable: true, ..PLAIN },
    Method { name: RESOURCE_TEMPLATES_LIST, capability: &["resources"], cacheable: true, ..PLAIN },
    Method {
        name: RESOURCES_READ,
        capability: &["resources"],
        named_by: Some("uri"),
        cacheable: true,
        interactive: true,
        ..PLAIN
    },
    Method { name: RESOURCES_SUBSCRIBE, removed: true, capability: &["resources", "subscribe"], ..PLAIN },
    Method { name: RESOURCES_UNSUBSCRIBE, removed: true, capability: &["resources", "subscribe"], ..PLAIN },
    Method { name: COMPLETE, capability: &["completions"], ..PLAIN },
    Method { name: SET_LEVEL, removed: true, capability: &["logging"], ..PLAIN },
    Method { name: LISTEN, ..PLAIN },
    Method { name: TASKS_GET, capability: TASKS_CAPABILITY, named_by: Some("taskId"), ..PLAIN },
    Method { name: TASKS_UPDATE, capability: TASKS_CAPABILITY, named_by: Some("taskId"), ..PLAIN },
    Method { name: TASKS_CANCEL, capability: TASKS_CAPABILITY, named_by: Some("taskId"), ..PLAIN },
    Method { name: TASKS_RESULT, capability: &["tasks"], ..PLAIN },
    Method { name: TASKS_LIST, capability: &["tasks"], ..PLAIN },
];

/// Where a modern server declares tasks; a legacy one has them under `tasks`.
pub const TASKS_CAPABILITY: &[&str] = &["extensions", TASKS_EXTENSION];

/// The extension by which modern servers have tasks.
pub const TASKS_EXTENSION: &str = "io.modelcontextprotocol/tasks";

/// Whether a request may end in `input_required` (§1.3).
pub fn may_ask_back(method: &str) -> bool {
    find(method).is_some_and(|known| known.interactive)
}

/// What ferry knows of a request.
pub fn find(method: &str) -> Option<&'static Method> {
    METHODS.iter().find(|known| known.name == method)
}

/// Whether a request may cause the server to ask its client something (§1.1 *candidate*). Unknown ones may.
pub fn is_candidate(method: &str) -> bool {
    !matches!(
        method,
        INITIALIZE
            | PING
            | DISCOVER
            | SET_LEVEL
            | RESOURCES_SUBSCRIBE
            | RESOURCES_UNSUBSCRIBE
            | LISTEN
            | TASKS_GET
            | TASKS_LIST
            | TASKS_CANCEL
            | TASKS_UPDATE
    ) && !method.ends_with("/list")
}

/// Whether a request, by its name, is a notification. No such request exists, and a server that looks at the method
/// alone would take `notifications/cancelled` for one, with an id of the client's choice: somebody else's request.
pub fn is_notification(method: &str) -> bool {
    method.starts_with("notifications/")
}

/// Whether a notification of a client is none of the protocol's own, so that a relay may pass it on (§1.10).
///
/// Only what is named like one: a server that looks at the method alone would run a `tools/call` without an id, past
/// every check that requests are held to.
pub fn is_extension_notification(method: &str) -> bool {
    is_notification(method) && !matches!(method, INITIALIZED | CANCELLED | PROGRESS | ROOTS_CHANGED)
}

/// The capability that a server needs to have a method, the unknown ones of its families included.
pub fn capability(method: &str) -> &'static [&'static str] {
    match (find(method), method.split_once('/')) {
        (Some(known), _) => known.capability,
        (None, Some(("tools", _))) => &["tools"],
        (None, Some(("prompts", _))) => &["prompts"],
        (None, Some(("resources", _))) => &["resources"],
        _ => &[],
    }
}

/// Whether the raw `capabilities` of a server declare what stands at `path`.
pub fn declares(capabilities: &str, path: &[&str]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    let Ok(members) = Members::read(capabilities) else { return false };
    members.truthy(first) && (rest.is_empty() || members.text(first).is_some_and(|inner| declares(inner, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_is_what_may_ask_back() {
        for (method, candidate) in [
            (TOOLS_CALL, true),
            (PROMPTS_GET, true),
            (RESOURCES_READ, true),
            (COMPLETE, true),
            (TASKS_RESULT, true),
            ("vendor/thing", true),
            (INITIALIZE, false),
            (PING, false),
            (DISCOVER, false),
            (TOOLS_LIST, false),
            (PROMPTS_LIST, false),
            (RESOURCES_LIST, false),
            (RESOURCE_TEMPLATES_LIST, false),
            ("vendor/list", false),
            (SET_LEVEL, false),
            (RESOURCES_SUBSCRIBE, false),
            (RESOURCES_UNSUBSCRIBE, false),
            (LISTEN, false),
            (TASKS_GET, false),
            (TASKS_LIST, false),
            (TASKS_CANCEL, false),
            (TASKS_UPDATE, false),
        ] {
            assert_eq!(is_candidate(method), candidate, "{method}");
        }
    }

    #[test]
    fn the_table_agrees_with_the_protocol() {
        let names = |has: fn(&Method) -> bool| -> Vec<_> {
            METHODS.iter().filter(|method| has(method)).map(|method| method.name).collect()
        };
        assert_eq!(
            names(|method| method.cacheable),
            [DISCOVER, TOOLS_LIST, PROMPTS_LIST, RESOURCES_LIST, RESOURCE_TEMPLATES_LIST, RESOURCES_READ]
        );
        assert_eq!(names(|method| method.interactive), [TOOLS_CALL, PROMPTS_GET, RESOURCES_READ]);
        assert_eq!(
            names(|method| method.removed),
            [INITIALIZE, PING, RESOURCES_SUBSCRIBE, RESOURCES_UNSUBSCRIBE, SET_LEVEL]
        );
        for (method, member) in [
            (TOOLS_CALL, Some("name")),
            (PROMPTS_GET, Some("name")),
            (RESOURCES_READ, Some("uri")),
            (TASKS_GET, Some("taskId")),
            (TASKS_UPDATE, Some("taskId")),
            (TASKS_CANCEL, Some("taskId")),
            (TASKS_RESULT, None),
            (TOOLS_LIST, None),
        ] {
            assert_eq!(find(method).and_then(|known| known.named_by), member, "{method}");
        }
        assert!(find("vendor/thing").is_none());
    }

    #[test]
    fn a_capability_is_declared_unless_absent_false_or_null() {
        let declared = r#"{"tools":{},"prompts":false,"resources":{"subscribe":true},"logging":null,
            "extensions":{"io.modelcontextprotocol/tasks":{}}}"#;
        for (method, has) in [
            (TOOLS_LIST, true),
            ("tools/vendor", true),
            (PROMPTS_GET, false),
            ("prompts/vendor", false),
            (RESOURCES_READ, true),
            (RESOURCES_SUBSCRIBE, true),
            (SET_LEVEL, false),
            (COMPLETE, false),
            (TASKS_GET, true),
            (TASKS_LIST, false),
            (DISCOVER, true),
            ("vendor/thing", true),
        ] {
            assert_eq!(declares(declared, capability(method)), has, "{method}");
        }
        for odd in ["", "[]", "{", "null", r#"{"tools":{},"tools":{}}"#, r#"{"resources":1}"#] {
            assert!(!declares(odd, &["tools"]) && !declares(odd, &["resources", "subscribe"]), "{odd}");
        }
    }

    #[test]
    fn a_relay_passes_on_only_what_is_named_like_a_notification_and_not_the_protocols_own() {
        for (method, passes) in [
            ("notifications/vendor", true),
            (CANCELLED, false),
            (PROGRESS, false),
            (INITIALIZED, false),
            (ROOTS_CHANGED, false),
            (TOOLS_CALL, false),
            ("vendor/thing", false),
            ("notifications", false),
        ] {
            assert_eq!(is_extension_notification(method), passes, "{method}");
        }
    }
}
