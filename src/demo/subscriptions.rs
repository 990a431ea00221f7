//! Who hears of which change of the notes.
//!
//! A session hears of every change of the list, and of the texts it has subscribed to one by one. A modern client hears
//! what its open `subscriptions/listen` requests ask for, each message marked with the id of that request.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::notes::{Change, Notes};
use super::wire::{self, Object, RpcError};

const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

/// Bounds on what a stranger can make this process hold.
const MAX_LISTENS: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// The session's, by `resources/subscribe`. Only of notes that existed, so their bound is that of the notes.
    session: HashSet<String>,
    listens: Vec<Listen>,
}

#[derive(Debug)]
struct Listen {
    id: Value,
    list: bool,
    texts: HashSet<String>,
}

impl Subscriptions {
    pub(super) fn subscribe(&mut self, uri: String) {
        self.session.insert(uri);
    }

    pub(super) fn unsubscribe(&mut self, uri: &str) {
        self.session.remove(uri);
    }

    /// Carries out `subscriptions/listen`. What comes back is the acknowledgement, which names what will be heard; the
    /// request itself stays open.
    pub(super) fn listen(&mut self, id: &Value, params: &Object, notes: &Notes) -> Result<Value, RpcError> {
        let filter = params.get("notifications").and_then(Value::as_object);
        let filter = filter.ok_or_else(|| RpcError::invalid_params("`notifications` is an object"))?;
        if self.listens.len() >= MAX_LISTENS {
            return Err(RpcError::internal(format!("{MAX_LISTENS} subscriptions are open already")));
        }
        let asked = filter.get("resourceSubscriptions").and_then(Value::as_array);
        let mut texts: Vec<&str> = asked.into_iter().flatten().filter_map(Value::as_str).collect();
        texts.retain(|uri| notes.at(uri).is_some());
        let list = filter.get("resourcesListChanged") == Some(&Value::Bool(true));

        let mut honoured = Object::new();
        if list {
            honoured.insert("resourcesListChanged".to_owned(), true.into());
        }
        if !texts.is_empty() {
            honoured.insert("resourceSubscriptions".to_owned(), json!(texts));
        }
        let texts = texts.into_iter().map(str::to_owned).collect();
        self.listens.push(Listen { id: id.clone(), list, texts });
        Ok(wire::notification(
            "notifications/subscriptions/acknowledged",
            json!({ "notifications": honoured, "_meta": { SUBSCRIPTION_ID: id } }),
        ))
    }

    pub(super) fn is_listening(&self, id: &Value) -> bool {
        self.listens.iter().any(|listen| listen.id == *id)
    }

    pub(super) fn end(&mut self, id: &Value) {
        self.listens.retain(|listen| listen.id != *id);
    }

    /// The notifications that tell a session of this change.
    pub(super) fn for_session(&self, change: &Change) -> Option<Value> {
        match change {
            Change::List => Some(wire::notification("notifications/resources/list_changed", Value::Null)),
            Change::Text(uri) if self.session.contains(uri) => {
                Some(wire::notification("notifications/resources/updated", json!({ "uri": uri })))
            }
            Change::Text(_) => None,
        }
    }

    /// The notifications that tell a modern client of this change: one for each request that listens for it.
    pub(super) fn for_listens(&self, change: &Change) -> Vec<Value> {
        let tell = |listen: &Listen| {
            let meta = json!({ SUBSCRIPTION_ID: listen.id });
            match change {
                Change::List if listen.list => {
                    Some(wire::notification("notifications/resources/list_changed", json!({ "_meta": meta })))
                }
                Change::Text(uri) if listen.texts.contains(uri) => {
                    Some(wire::notification("notifications/resources/updated", json!({ "uri": uri, "_meta": meta })))
                }
                Change::List | Change::Text(_) => None,
            }
        };
        self.listens.iter().filter_map(tell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: &Value) -> Object {
        value.as_object().expect("the test wrote an object").clone()
    }

    #[test]
    fn only_what_exists_is_acknowledged() {
        for (asked, honoured) in [
            (json!({}), json!({})),
            (json!({ "resourcesListChanged": true }), json!({ "resourcesListChanged": true })),
            (json!({ "resourcesListChanged": false, "toolsListChanged": true, "taskIds": ["1"] }), json!({})),
            (
                json!({ "resourceSubscriptions": ["note:///1", "note:///9", 7] }),
                json!({ "resourceSubscriptions": ["note:///1"] }),
            ),
        ] {
            let params = object(&json!({ "notifications": asked }));
            let ack = Subscriptions::default().listen(&json!("l"), &params, &Notes::default()).expect("a filter");
            assert_eq!(ack["params"]["notifications"], honoured, "{params:?}");
            assert_eq!(ack["params"]["_meta"][SUBSCRIPTION_ID], "l");
        }
        assert!(Subscriptions::default().listen(&json!(1), &Object::new(), &Notes::default()).is_err());
    }

    #[test]
    fn a_listen_hears_what_it_asked_for_until_it_ends() {
        let mut subscriptions = Subscriptions::default();
        for (id, filter) in [
            (json!(1), json!({ "resourcesListChanged": true })),
            (json!("1"), json!({ "resourceSubscriptions": ["note:///1"] })),
        ] {
            let params = object(&json!({ "notifications": filter }));
            subscriptions.listen(&id, &params, &Notes::default()).expect("a filter");
        }
        let ids = |subscriptions: &Subscriptions, change: &Change| -> Vec<Value> {
            let told = subscriptions.for_listens(change);
            told.into_iter().map(|message| message["params"]["_meta"][SUBSCRIPTION_ID].clone()).collect()
        };
        let text = |uri: &str| Change::Text(uri.to_owned());
        assert_eq!(ids(&subscriptions, &Change::List), [json!(1)]);
        assert_eq!(ids(&subscriptions, &text("note:///1")), [json!("1")]);
        assert_eq!(ids(&subscriptions, &text("note:///2")), [] as [Value; 0]);
        subscriptions.end(&json!(1));
        assert_eq!(ids(&subscriptions, &Change::List), [] as [Value; 0]);
        assert!(subscriptions.is_listening(&json!("1")) && !subscriptions.is_listening(&json!(1)));
    }

    #[test]
    fn there_is_an_end_to_listening() {
        let mut subscriptions = Subscriptions::default();
        let params = object(&json!({ "notifications": {} }));
        let outcomes: Vec<_> =
            (0..=MAX_LISTENS).map(|id| subscriptions.listen(&json!(id), &params, &Notes::default()).is_ok()).collect();
        assert_eq!(outcomes.iter().filter(|opened| **opened).count(), MAX_LISTENS);
    }
}
