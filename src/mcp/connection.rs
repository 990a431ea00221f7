//! One connection to a server: requests numbered on the way out, their owners found on the way back.
//!
//! Clients number their requests as they like, and two of them will both use `1`; the server sees ferry's numbers
//! only, which never repeat within a connection. A cancelled request keeps its place until its late answer or for
//! [`REMEMBERED_FOR`], since the server may still speak of it.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use super::envelope::{self, Kind, Message};
use super::lines::{Line as Read, Lines, overlong_id};
use super::members;
use super::writer::{Bounds, Driver, Line, Refused, Writer};

/// How long a cancelled request is remembered when no late answer comes.
pub const REMEMBERED_FOR: Duration = Duration::from_mins(1);

/// How long what a server has written is read on after its exit; a grandchild may hold the pipe open for ever.
pub const READ_AFTER_EXIT: Duration = Duration::from_millis(250);

/// One request in flight, as its owner sees it. Called by the task that reads the pipe: it must not block.
pub trait Exchange: Send + Sync + 'static {
    /// The server reported progress; the message still carries ferry's token.
    fn progress(&self, message: &Message);
    /// It is over. Called once, unless it was cancelled before.
    fn finish(&self, end: End);
}

/// How a request ended.
#[derive(Debug)]
pub enum End {
    /// With the server's answer, which has a result or an error, and ferry's id.
    Answered(Message),
    /// With an answer that has neither a result nor an error, or both.
    Malformed,
    /// With an answer of this many bytes, more than a message may have.
    TooLarge(u64),
    /// Not at all: the connection closed after the request was written. It may have run.
    Closed,
    /// Not at all: the connection closed before any of it was written.
    NotSent,
}

/// Whoever hears what a server says unasked. Called by the task that reads the pipe: it must not block.
pub trait Inbound<X>: Send + Sync + 'static {
    /// The server asks for something; an answer goes through [`Connection::answer`].
    fn request(&self, connection: &Connection<X>, message: Message);
    /// The server tells something that is no progress.
    fn notification(&self, connection: &Connection<X>, message: Message);
    /// The server wrote something that is no message.
    fn noise(&self, line: &[u8], why: &str);
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The server's process exited.
    Exited,
    /// The server closed its end, or the pipe broke, while the process may live on.
    Broken(String),
}

/// A cloneable handle to one connection. `X` is what its owner keeps of a request.
pub struct Connection<X>(Arc<Inner<X>>);

impl<X> Clone for Connection<X> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<X> {
    writer: Writer,
    table: Mutex<Table<X>>,
    next_id: AtomicU64,
    lines_heard: AtomicU64,
    stray: AtomicU64,
    closed: AtomicBool,
    leaving: AtomicBool,
}

struct Table<X> {
    slots: HashMap<u64, Slot<X>, BuildHasherDefault<OwnNumber>>,
    /// When which request was cancelled, oldest first.
    cancelled: VecDeque<(Instant, u64)>,
    closed: bool,
}

/// ferry counts the numbers itself, so nobody can choose them to collide: the next to nothing of a hash will do.
#[derive(Default)]
struct OwnNumber(u64);

impl Hasher for OwnNumber {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(self.0 << 8 | u64::from(*byte)));
    }
    fn write_u64(&mut self, number: u64) {
        // Odd and without a pattern (2^64 over the golden ratio): the table looks at the upper bits too.
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

struct Slot<X> {
    owner: Owner<X>,
    cancelled: bool,
    /// Its line has been handed to the pipe's queue.
    queued: bool,
}

enum Owner<X> {
    Exchange(Arc<X>),
    Ferry(oneshot::Sender<End>),
}

/// The two halves of a connection that must run for it to live.
pub struct Pump<R> {
    lines: Lines<R>,
    driver: Driver,
}

impl<X: Exchange> Connection<X> {
    /// A connection over any reader and writer; nothing moves until its [`Pump`] is run.
    pub fn new<R, W>(reader: R, writer: W, max_line: usize, bounds: Bounds) -> (Self, Pump<R>)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Send + 'static,
    {
        let (writer, driver) = Writer::new(writer, bounds);
        let table = Table { slots: HashMap::default(), cancelled: VecDeque::new(), closed: false };
        let inner = Inner {
            writer,
            table: Mutex::new(table),
            next_id: AtomicU64::new(1),
            lines_heard: AtomicU64::new(0),
            stray: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
        };
        (Self(Arc::new(inner)), Pump { lines: Lines::new(reader, max_line), driver })
    }

    /// Gives an exchange its number and a place in the table; `None` once the connection is closed.
    ///
    /// Who enters an exchange sends it next: what is never sent stays until the connection ends.
    pub fn enter(&self, exchange: Arc<X>) -> Option<u64> {
        self.place(Owner::Exchange(exchange))
    }

    fn place(&self, owner: Owner<X>) -> Option<u64> {
        let mut table = self.lock();
        if table.closed {
            return None;
        }
        table.forget(Instant::now());
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        table.slots.insert(id, Slot { owner, cancelled: false, queued: false });
        Some(id)
    }

    /// Sends the request that was entered as `id`, its parameters in pieces.
    ///
    /// # Errors
    /// [`Refused`]: nothing was written, and the exchange has left the table without [`Exchange::finish`].
    pub async fn send(&self, id: u64, method: &str, params: impl IntoIterator<Item = Bytes>) -> Result<(), Refused> {
        let line = Line::request(id, method, params);
        // A caller that gives up while the queue is full must leave nothing behind.
        let unsent = Forget { connection: self, id };
        let set = |queued: bool| {
            let mut table = self.lock();
            let Some(slot) = table.slots.get_mut(&id) else { return false };
            slot.queued = queued && !slot.cancelled;
            !slot.cancelled
        };
        self.0.writer.send(line, || set(true), || _ = set(false)).await?;
        std::mem::forget(unsent);
        if self.lock().slots.get(&id).is_some_and(|slot| slot.cancelled) {
            // Cancelled while it was being queued: the cancel may stand before it in the pipe, so it is said again.
            self.notify("notifications/cancelled", Some(&format!("{{\"requestId\":{id}}}")));
        }
        Ok(())
    }

    /// Asks the server for something on ferry's own behalf and waits for the end of it.
    pub async fn call(&self, method: &str, params: &str) -> End {
        let (sender, answer) = oneshot::channel();
        let Some(id) = self.place(Owner::Ferry(sender)) else { return End::NotSent };
        let forget = Forget { connection: self, id };
        if self.send(id, method, [Bytes::copy_from_slice(params.as_bytes())]).await.is_err() {
            return End::NotSent;
        }
        let end = answer.await.unwrap_or(End::Closed);
        drop(forget);
        end
    }

    /// Begins to ask the server for something on ferry's own behalf. `told` hears the number of it before anything is
    /// sent. Whoever begins it ends it, by [`Connection::cancel`].
    pub async fn begin_call(
        &self,
        method: &str,
        params: &str,
        told: impl FnOnce(u64),
    ) -> Option<(u64, oneshot::Receiver<End>)> {
        let (sender, answer) = oneshot::channel();
        let id = self.place(Owner::Ferry(sender))?;
        told(id);
        self.send(id, method, [Bytes::copy_from_slice(params.as_bytes())]).await.ok()?;
        Some((id, answer))
    }

    /// Tells the server something. A server that does not read loses notifications, not its place.
    pub fn notify(&self, method: &str, params: Option<&str>) {
        self.push(envelope::call(None, method, params));
    }

    /// Passes on a message that is already a line: a notification or an answer of a client.
    pub fn push(&self, text: impl Into<Bytes>) {
        if self.0.writer.push(Line::text(text)) == Err(Refused::Full) {
            tracing::warn!("the server does not read its input; a message to it was dropped");
        }
    }

    /// Answers a request of the server's, whose id is `id` as it wrote it.
    pub fn answer(&self, id: &str, result: &str) {
        self.push(envelope::answer(id, result));
    }

    /// Refuses a request of the server's.
    pub fn refuse(&self, id: &str, code: i32, message: &str) {
        self.push(envelope::error(Some(id), code, message, None));
    }

    /// Cancels a request: the server is told, and its answer will reach nobody.
    ///
    /// [`Exchange::finish`] is not called for it any more. Returns whether it was still in flight.
    pub fn cancel(&self, id: u64, reason: Option<&str>) -> bool {
        {
            let mut table = self.lock();
            let now = Instant::now();
            table.forget(now);
            let Some(slot) = table.slots.get_mut(&id) else { return false };
            if !slot.queued {
                // Nothing of it will be: there is nothing to tell the server.
                table.slots.remove(&id);
                return true;
            }
            if std::mem::replace(&mut slot.cancelled, true) {
                return false;
            }
            table.cancelled.push_back((now, id));
        }
        let reason = reason.map(|reason| format!(",\"reason\":{}", members::quote(reason))).unwrap_or_default();
        self.notify("notifications/cancelled", Some(&format!("{{\"requestId\":{id}{reason}}}")));
        true
    }

    /// Looks at every exchange in flight; the flag tells a cancelled one that the server may still speak of.
    pub fn each(&self, mut look: impl FnMut(u64, &Arc<X>, bool)) {
        let mut table = self.lock();
        table.forget(Instant::now());
        for (id, slot) in &table.slots {
            if let Owner::Exchange(exchange) = &slot.owner {
                look(*id, exchange, slot.cancelled);
            }
        }
    }

    /// The exchange under this number, unless it is over or cancelled.
    pub fn exchange(&self, id: u64) -> Option<Arc<X>> {
        match self.lock().slots.get(&id) {
            Some(Slot { owner: Owner::Exchange(exchange), cancelled: false, .. }) => Some(Arc::clone(exchange)),
            _ => None,
        }
    }

    /// Takes an exchange out of the table without a word to the server, which has ended it in its own way.
    pub fn forget(&self, id: u64) {
        self.lock().slots.remove(&id);
    }

    /// How many requests are in flight, cancelled ones included.
    pub fn in_flight(&self) -> usize {
        self.lock().slots.len()
    }

    /// How many requests it was given so far.
    pub fn requests_taken(&self) -> u64 {
        self.0.next_id.load(Ordering::Relaxed)
    }

    /// How many lines the server has written.
    pub fn lines_heard(&self) -> u64 {
        self.0.lines_heard.load(Ordering::Relaxed)
    }

    /// How many messages had no owner: late, doubled or unknown answers and progress.
    pub fn strays(&self) -> u64 {
        self.0.stray.load(Ordering::Relaxed)
    }

    /// Whether requests can go out on it: it has not ended, and its server was not asked to leave.
    pub fn is_open(&self) -> bool {
        !self.is_closed() && !self.0.leaving.load(Ordering::Acquire)
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// Closes the way in: the server sees the end of its input.
    pub fn close_input(&self) {
        self.0.leaving.store(true, Ordering::Release);
        let unwritten = self.0.writer.close();
        let owners: Vec<_> = {
            let mut table = self.lock();
            unwritten.iter().filter_map(|id| table.slots.remove(id)).collect()
        };
        owners.into_iter().for_each(|slot| slot.finish(End::NotSent));
    }

    /// Ends it: whatever is in flight is told, once.
    fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        self.close_input();
        let slots = {
            let mut table = self.lock();
            table.closed = true;
            table.cancelled.clear();
            std::mem::take(&mut table.slots)
        };
        slots.into_values().for_each(|slot| slot.finish(End::Closed));
    }

    fn lock(&self) -> MutexGuard<'_, Table<X>> {
        self.0.table.lock().expect("nothing panics while it holds the table")
    }

    fn hear(&self, line: &Bytes, inbound: &dyn Inbound<X>) {
        // Servers have been seen to answer with a batch of one, which is no message of MCP.
        if line.first() == Some(&b'[') {
            let elements = std::str::from_utf8(line).ok().and_then(|text| members::elements(text).ok());
            match elements {
                Some(elements) if !elements.is_empty() => {
                    for element in elements {
                        self.hear_one(&line.slice_ref(element.get().as_bytes()), inbound);
                    }
                }
                _ => inbound.noise(line, "an empty or broken array"),
            }
            return;
        }
        self.hear_one(line, inbound);
    }

    fn hear_one(&self, line: &Bytes, inbound: &dyn Inbound<X>) {
        let message = match Message::from_server(line.clone()) {
            Ok(message) => message,
            Err(invalid) => return inbound.noise(line, &invalid.why),
        };
        match message.kind() {
            Kind::Request => inbound.request(self, message),
            Kind::Notification if message.method() == "notifications/progress" => self.progress(&message),
            Kind::Notification => inbound.notification(self, message),
            Kind::Response => self.answered(message),
        }
    }

    fn progress(&self, message: &Message) {
        let members = message.param_members().unwrap_or_default();
        let exchange = members.text("progressToken").and_then(envelope::number).and_then(|id| self.exchange(id));
        match exchange {
            Some(exchange) => exchange.progress(message),
            None => self.strayed("progress"),
        }
    }

    fn answered(&self, message: Message) {
        let slot = match message.own_id() {
            Some(id) => self.lock().slots.remove(&id),
            None => self.lock().lone_call(&message),
        };
        let Some(slot) = slot else { return self.strayed("an answer") };
        slot.finish(match (message.result().is_some(), message.error().is_some()) {
            (true, false) | (false, true) => End::Answered(message),
            _ => End::Malformed,
        });
    }

    fn overlong(&self, head: &[u8], tail: &[u8], length: u64, inbound: &dyn Inbound<X>) {
        let slot = overlong_id(head, tail).and_then(|id| self.lock().slots.remove(&id));
        match slot {
            Some(slot) => slot.finish(End::TooLarge(length)),
            None => inbound.noise(head, &format!("a line of {length} bytes, more than a message may have")),
        }
    }

    fn strayed(&self, what: &str) {
        self.0.stray.fetch_add(1, Ordering::Relaxed);
        tracing::debug!("{what} without an owner was dropped");
    }
}

impl<X> Table<X> {
    /// Lets go of requests that were cancelled long ago.
    fn forget(&mut self, now: Instant) {
        while let Some((_, id)) = self.cancelled.pop_front_if(|(at, _)| now.duration_since(*at) >= REMEMBERED_FOR) {
            self.slots.remove(&id);
        }
    }

    /// Some servers answer what they cannot read with an error whose id is null: if a call of ferry's own is the only
    /// thing in flight, it is the one meant.
    fn lone_call(&mut self, message: &Message) -> Option<Slot<X>> {
        let unnamed = message.error().is_some() && message.id().is_none_or(|id| id.as_ref() == b"null");
        if !unnamed || self.slots.len() != 1 {
            return None;
        }
        let id = *self.slots.iter().find(|(_, slot)| matches!(slot.owner, Owner::Ferry(_)))?.0;
        self.slots.remove(&id)
    }
}

impl<X: Exchange> Slot<X> {
    fn finish(self, end: End) {
        match self.owner {
            Owner::Exchange(exchange) if !self.cancelled => exchange.finish(end),
            Owner::Exchange(_) => {}
            // The caller may have given up.
            Owner::Ferry(caller) => drop(caller.send(end)),
        }
    }
}

/// Takes a call of ferry's own out of the table when its caller gives up.
struct Forget<'a, X: Exchange> {
    connection: &'a Connection<X>,
    id: u64,
}

impl<X: Exchange> Drop for Forget<'_, X> {
    fn drop(&mut self) {
        self.connection.lock().slots.remove(&self.id);
    }
}

impl<R: AsyncRead + Unpin> Pump<R> {
    /// Runs the connection until it ends, then tells everybody who waits.
    ///
    /// `exited` resolves when the server's process has exited; its output is read for [`READ_AFTER_EXIT`] more.
    pub async fn run<X: Exchange>(
        self,
        connection: Connection<X>,
        inbound: Arc<dyn Inbound<X>>,
        exited: impl Future<Output = ()>,
    ) -> Ended {
        let Self { mut lines, driver } = self;
        let close = Close(connection.clone());
        let reading = async {
            loop {
                match lines.next().await {
                    Ok(Some(line)) => {
                        connection.0.lines_heard.fetch_add(1, Ordering::Relaxed);
                        match line {
                            Read::Whole(line) => connection.hear(&line, &*inbound),
                            Read::Overlong { head, tail, length } => {
                                connection.overlong(&head, &tail, length, &*inbound);
                            }
                        }
                    }
                    Ok(None) => return "it closed its output".to_owned(),
                    Err(error) => return format!("its output cannot be read: {error}"),
                }
            }
        };
        let writing = async {
            match driver.run().await {
                // Closed by ferry: what the server still says is heard.
                Ok(()) => std::future::pending().await,
                Err(error) => broken_input(&error),
            }
        };
        let mut reading = std::pin::pin!(reading);
        let ended = tokio::select! {
            why = &mut reading => Ended::Broken(why),
            why = writing => Ended::Broken(why),
            () = exited => {
                let _ = tokio::time::timeout(READ_AFTER_EXIT, reading).await;
                Ended::Exited
            }
        };
        drop(close);
        ended
    }
}

fn broken_input(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::BrokenPipe => "it closed its input".to_owned(),
        _ => format!("its input cannot be written: {error}"),
    }
}

/// Closes the connection however its task ends: a panic there must not leave anybody waiting.
struct Close<X: Exchange>(Connection<X>);

impl<X: Exchange> Drop for Close<X> {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf};
    use tokio::sync::Notify;

    #[derive(Default)]
    struct Call {
        heard: Mutex<Vec<String>>,
        over: Notify,
    }

    impl Exchange for Call {
        fn progress(&self, message: &Message) {
            self.heard.lock().unwrap().push(format!("progress {}", message.params_text().unwrap()));
        }
        fn finish(&self, end: End) {
            let told = match end {
                End::Answered(message) => {
                    message.result_text().map_or_else(|| "error".to_owned(), |result| format!("result {result}"))
                }
                other => format!("{other:?}"),
            };
            self.heard.lock().unwrap().push(told);
            self.over.notify_one();
        }
    }

    impl Call {
        fn heard(&self) -> Vec<String> {
            self.heard.lock().unwrap().clone()
        }
    }

    #[derive(Default)]
    struct Ears(Mutex<Vec<String>>);

    impl Inbound<Call> for Ears {
        fn request(&self, connection: &Connection<Call>, message: Message) {
            let id = message.id().unwrap();
            connection.answer(std::str::from_utf8(&id).unwrap(), "{}");
        }
        fn notification(&self, _: &Connection<Call>, message: Message) {
            self.0.lock().unwrap().push(message.method().to_owned());
        }
        fn noise(&self, line: &[u8], _: &str) {
            self.0.lock().unwrap().push(format!("noise {}", String::from_utf8_lossy(line)));
        }
    }

    struct Server {
        reads: tokio::io::Lines<BufReader<ReadHalf<DuplexStream>>>,
        writes: WriteHalf<DuplexStream>,
        ears: Arc<Ears>,
        exit: Option<oneshot::Sender<()>>,
        ended: tokio::task::JoinHandle<Ended>,
    }

    fn open() -> (Connection<Call>, Server) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (reader, writer) = tokio::io::split(near);
        let bounds = Bounds { lines: 8, bytes: 1 << 20, wait: Duration::from_millis(20) };
        let (connection, pump) = Connection::new(reader, writer, 1000, bounds);
        let ears = Arc::new(Ears::default());
        let (exit, exited) = oneshot::channel::<()>();
        let exited = async move { drop(exited.await) };
        let ended = tokio::spawn(pump.run(connection.clone(), Arc::clone(&ears) as _, exited));
        let (requests, answers) = tokio::io::split(far);
        (connection, Server { reads: BufReader::new(requests).lines(), writes: answers, ears, exit: Some(exit), ended })
    }

    impl Server {
        async fn read(&mut self) -> String {
            self.reads.next_line().await.unwrap().unwrap()
        }
        async fn write(&mut self, line: &str) {
            self.writes.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        }
    }

    async fn begin(connection: &Connection<Call>) -> (u64, Arc<Call>) {
        let call = Arc::new(Call::default());
        let id = connection.enter(Arc::clone(&call)).unwrap();
        connection.send(id, "tools/call", [Bytes::from_static(b"{}")]).await.unwrap();
        (id, call)
    }

    #[tokio::test]
    async fn answers_find_their_owners_in_any_order_and_spelling() {
        let (connection, mut server) = open();
        let (a, first) = begin(&connection).await;
        let (b, second) = begin(&connection).await;
        assert_eq!(server.read().await, format!(r#"{{"jsonrpc":"2.0","id":{a},"method":"tools/call","params":{{}}}}"#));
        server.write(&format!(r#"{{"jsonrpc":"2.0","id":"{b}","result":{{"n":2}}}}"#)).await;
        second.over.notified().await;
        server
            .write(&format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{a}}}}}"#
            ))
            .await;
        server.write(&format!(r#"[{{"jsonrpc":"2.0","id":{a},"result":{{"n":1}}}}]"#)).await;
        first.over.notified().await;
        // Twice, and to nobody.
        server.write(&format!(r#"{{"jsonrpc":"2.0","id":{a},"result":{{"n":3}}}}"#)).await;
        server.write(r#"{"jsonrpc":"2.0","id":999,"result":{}}"#).await;
        server.write(r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#).await;
        server.read().await;
        assert_eq!(server.read().await, r#"{"jsonrpc":"2.0","id":0,"result":{}}"#);
        assert_eq!(first.heard(), [format!("progress {{\"progressToken\":{a}}}"), "result {\"n\":1}".to_owned()]);
        assert_eq!(second.heard(), ["result {\"n\":2}"]);
        assert_eq!((connection.strays(), connection.in_flight()), (2, 0));
    }

    #[tokio::test]
    async fn garbage_disturbs_nobody() {
        let (connection, mut server) = open();
        let (id, call) = begin(&connection).await;
        for garbage in ["[]", "42", "[1]", "Server listening", "{\"a\":1}", "\u{feff}", "nul\0"] {
            server.write(garbage).await;
        }
        server.write(&format!("{{\"jsonrpc\":\"2.0\",\"method\":\"x\",\"params\":\"{}\"}}", "y".repeat(2000))).await;
        server.write(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)).await;
        call.over.notified().await;
        assert_eq!(call.heard(), ["result {}"]);
        assert_eq!(server.ears.0.lock().unwrap().len(), 7, "{:?}", server.ears.0);
    }

    #[tokio::test]
    async fn an_overlong_answer_costs_only_its_own_call() {
        let (connection, mut server) = open();
        let (a, first) = begin(&connection).await;
        let (b, second) = begin(&connection).await;
        server.write(&format!(r#"{{"jsonrpc":"2.0","id":{a},"result":{{"text":"{}"}}}}"#, "y".repeat(9000))).await;
        server.write(&format!(r#"{{"jsonrpc":"2.0","id":{b},"result":{{}}}}"#)).await;
        second.over.notified().await;
        assert!(first.heard()[0].starts_with("TooLarge"), "{:?}", first.heard());
    }

    #[tokio::test]
    async fn a_cancelled_call_hears_nothing_more_and_is_remembered_until_its_late_answer() {
        let (connection, mut server) = open();
        let (id, call) = begin(&connection).await;
        assert!(connection.cancel(id, Some("tired")));
        assert!(!connection.cancel(id, None), "once is enough");
        server.read().await;
        assert_eq!(
            server.read().await,
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id},"reason":"tired"}}}}"#
            )
        );
        let mut remembered = Vec::new();
        connection.each(|id, _, cancelled| remembered.push((id, cancelled)));
        assert_eq!(remembered, [(id, true)]);
        let (next, other) = begin(&connection).await;
        server.write(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)).await;
        server.write(&format!(r#"{{"jsonrpc":"2.0","id":{next},"result":{{}}}}"#)).await;
        other.over.notified().await;
        assert_eq!((call.heard(), connection.in_flight()), (vec![], 0));
    }

    #[tokio::test]
    async fn an_answer_without_an_id_is_for_the_only_call_of_ferrys_own() {
        let (connection, mut server) = open();
        let calling = tokio::spawn({
            let connection = connection.clone();
            async move { connection.call("server/discover", "{}").await }
        });
        server.read().await;
        server.write(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"what?"}}"#).await;
        assert!(matches!(calling.await.unwrap(), End::Answered(message) if message.error().is_some()));
        // With a client's call in flight too, nobody can tell.
        let (_, call) = begin(&connection).await;
        server.write(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"what?"}}"#).await;
        server.exit.take();
        drop(server.writes);
        call.over.notified().await;
        assert_eq!(call.heard(), ["Closed"]);
    }

    #[tokio::test]
    async fn the_end_is_told_once_to_everybody_who_waits() {
        let (connection, mut server) = open();
        let (id, written) = begin(&connection).await;
        server.write(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"last":"words"}}}}"#)).await;
        let (_, lost) = begin(&connection).await;
        // The process is gone while something else still holds its pipe open.
        drop(server.exit.take());
        assert_eq!(server.ended.await.unwrap(), Ended::Exited);
        assert_eq!(written.heard(), ["result {\"last\":\"words\"}"]);
        assert_eq!(lost.heard(), ["Closed"]);
        assert!(connection.enter(Arc::new(Call::default())).is_none());
        assert!(connection.is_closed());
        assert!(matches!(connection.call("ping", "{}").await, End::NotSent));
    }
}
