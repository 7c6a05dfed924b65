//! What a scenario is played on: a real server, clients that behave as clients do when an answer
//! does not come, and the check that follows.

use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use standardwebhooks::Webhook;

use super::fault::{Armed, Fault, Patience, Planned};
use super::gates::{Gates, Reaper};
use super::truth::Truth;
use crate::harness::{
    Api, Context, Event, FilePart, Filter, Output, Outside, Reply, SeamControl, Server, Verdict,
    seeded_bytes, text_of,
};

/// How often a client asks before it gives up: one fault costs one answer.
const ATTEMPTS: usize = 4;
/// How long the reapers may take to come to rest.
const REST_LIMIT: Duration = Duration::from_secs(60);
/// Longer than the pauses in which a server goes on with work whose client has left.
const QUIET: Duration = Duration::from_millis(700);
/// How long a client that hung up waits before it asks again.
const REDIAL: Duration = Duration::from_millis(50);

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwdGVzdC1zZWNyZXQ=";

/// Leases and deadlines that only `Outside::let_time_pass` ends, reapers that come at once.
const SETTINGS: &[(&str, &str)] = &[
    ("CLEANUP__INTERVAL", "20ms"),
    ("UPLOAD__LEASE", "15m"),
    ("UPLOAD__PUT_DEADLINE", "1h"),
    ("STORAGE__S3__OPERATION_TIMEOUT", "30s"),
    ("SERVER__WORKERS", "1"),
    ("DATABASE__MAX_CONNECTIONS", "4"),
    ("LOG__LEVEL", "warn"),
];

/// One lane of cases: its database, store and server are fresh, and at rest between two cases.
pub(super) struct World<'c> {
    context: &'c mut Context,
    seams: SeamControl,
    gates: Gates,
    pub(super) outside: Outside,
    api: Api,
    /// Another node, where there can be one: what one acknowledged, all must serve (I8).
    other_node: Option<Api>,
    planned: Option<Planned>,
    armed: Armed,
    /// Since `begin`: the server's process.
    window: Option<u32>,
    pub(super) truth: Truth,
    case: u64,
}

impl<'c> World<'c> {
    /// Starts the server, and where the database allows it another one beside it.
    pub(super) async fn new(context: &'c mut Context, fault: Fault) -> Self {
        for (name, value) in SETTINGS {
            context.set(name, *value);
        }
        if fault == Fault::Late {
            context.set("STORAGE__S3__OPERATION_TIMEOUT", "3s");
        }
        context.set("WEBHOOKS__DELETIONS__SECRETS", &json!([SECRET]));
        let other_node = match context.is_sqlite() {
            true => None,
            false => {
                context.set("CLEANUP__INTERVAL", "1h");
                let api = context.start().await;
                context.set("CLEANUP__INTERVAL", "20ms");
                Some(api)
            }
        };
        let seams = context.seams();
        let gates = Gates::close(&seams);
        Self {
            api: context.start().await,
            outside: context.outside().await,
            context,
            seams,
            gates,
            other_node,
            planned: None,
            armed: Armed::Nothing,
            window: None,
            truth: Truth::default(),
            case: 0,
        }
    }

    /// Begins a case: everything is at rest, nothing is reaped until it is asked for.
    pub(super) async fn prepare(&mut self, planned: Option<Planned>) {
        self.be_alive().await;
        self.gates.closed().await;
        self.planned = planned;
        self.armed = Armed::Nothing;
        self.window = None;
        self.truth = Truth::default();
        self.case += 1;
    }

    /// Here the scenario begins: its calls are counted, and one of them meets the fault.
    pub(super) fn begin(&mut self) {
        let server = self.context.server().pid();
        self.window = Some(server);
        self.seams.forget();
        if let Some(planned) = self.planned {
            let filter = Filter::new(move |event: &Event| counts(event, server));
            self.armed = Armed::new(planned, filter, &self.seams, self.context);
        }
    }

    /// The calls since `begin`.
    pub(super) fn calls(&self) -> Vec<Event> {
        let server = self.window.expect("`begin` came before");
        let mut calls = self.seams.events();
        calls.retain(|event| counts(event, server));
        calls
    }

    /// Two hours pass. What is still on its way to the store arrives before: a put deadline is
    /// chosen so that nothing can come after it.
    pub(super) async fn let_time_pass(&mut self) {
        if matches!(&self.armed, Armed::Late(late) if late.is_finished()) {
            self.settle().await;
        }
        self.outside.let_time_pass().await;
    }

    /// The end of the scenario: what is still on its way arrives.
    pub(super) async fn settle(&mut self) {
        match std::mem::replace(&mut self.armed, Armed::Nothing) {
            Armed::Nothing => {}
            Armed::Hanging(held) => {
                let reached = tokio::time::timeout(Duration::ZERO, held.arrived(1)).await;
                assert!(reached.is_err(), "{reached:?} still hangs");
            }
            Armed::Late(late) => {
                let late = late.await.expect("it does not panic");
                // The store is cleaned up once before the request lands, and once after (rule R8).
                self.reap(Reaper::Deletions).await;
                drop(late.holds);
                self.context.disarm();
                let deadline = Instant::now() + REST_LIMIT;
                while late.call.name == "put"
                    && !self.outside.objects().await.contains_key(&late.call.detail)
                {
                    assert!(Instant::now() < deadline, "{} does not land", late.call);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    /// Time passes, the reapers come to rest, and everything is as the clients know it.
    pub(super) async fn rest_and_check(&mut self) {
        let deadline = Instant::now() + REST_LIMIT;
        loop {
            // The fault may meet a call that nobody waits for: then the server dies only now.
            self.be_alive().await;
            self.gates.open();
            self.outside.let_time_pass().await;
            let mut wrong = self.outside.wrong().await;
            wrong.retain(|complaint| !self.truth.explains(complaint));
            if wrong.is_empty() && self.reapers_wait().await {
                break;
            }
            assert!(Instant::now() < deadline, "no rest: {wrong:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let api = self.other_node.as_ref().unwrap_or(&self.api);
        self.truth.check(&self.outside, api).await;
        self.context.spool_is_empty().await;
    }

    /// Holds every reaper; whether the server lived to see it.
    async fn reapers_wait(&mut self) -> bool {
        self.gates = Gates::close(&self.seams);
        tokio::select! {
            () = self.gates.closed() => true,
            () = exit(self.context.server()) => false,
        }
    }

    /// Lets one round of a reaper through, to its end or to that of its process.
    pub(super) async fn reap(&mut self, reaper: Reaper) {
        self.be_alive().await;
        self.gates.step(&self.seams, reaper).await;
        loop {
            let ended = tokio::select! {
                _ = self.gates.next(reaper).arrived(1) => true,
                () = exit(self.context.server()) => true,
                () = self.armed.hangs() => false,
            };
            if ended {
                return self.be_alive().await;
            }
            self.look_while_it_hangs().await;
            std::mem::replace(&mut self.armed, Armed::Nothing).let_go();
        }
    }

    /// `hapax cleanup` of everything that nobody refers to.
    pub(super) async fn cleanup(&mut self) {
        for _ in 0..ATTEMPTS {
            let output = self.run_cleanup().await;
            if output.code == Some(0) {
                return;
            }
            assert!(!output.stderr.contains("panicked"), "{output:?}");
            self.after_unknown(&format!("{output:?}")).await;
        }
        panic!("no clean-up after {ATTEMPTS} attempts");
    }

    async fn run_cleanup(&mut self) -> Output {
        let command = ["cleanup", "--older-than", "0s"];
        let mut command = std::pin::pin!(self.context.hapax_beside(&command));
        let output = tokio::select! {
            output = &mut command => Some(output),
            () = self.armed.hangs() => None,
        };
        if let Some(output) = output {
            return output;
        }
        // Whoever started it waits on.
        self.look_while_it_hangs().await;
        std::mem::replace(&mut self.armed, Armed::Nothing).let_go();
        command.await
    }

    /// Asks until the outcome is known, which must be `status`.
    pub(super) async fn ask(
        &mut self,
        status: u16,
        request: impl Fn(&Api) -> RequestBuilder,
    ) -> Reply {
        for _ in 0..ATTEMPTS {
            let request = request(&self.api);
            let answer = tokio::select! {
                answer = self.api.try_send(request) => answer.map_err(|error| format!("{error:?}")),
                // Dropped half-way: the client hung up.
                () = self.armed.hangs() => Err("it hangs".to_owned()),
            };
            let unknown = match answer {
                Ok(reply) if reply.status == status => return reply,
                Ok(reply) => {
                    assert_eq!(reply.status, 503, "instead of {status}: {}", reply.text());
                    assert!(reply.header("retry-after").is_some(), "{reply:?}");
                    reply.text()
                }
                Err(error) => error,
            };
            self.after_unknown(&unknown).await;
        }
        panic!("no answer after {ATTEMPTS} attempts");
    }

    /// A client does not know what became of its request.
    async fn after_unknown(&mut self, what: &str) {
        let planned = self.planned;
        let planned = planned.unwrap_or_else(|| panic!("without a fault: {what}"));
        if matches!(self.armed, Armed::Hanging(_)) {
            self.look_while_it_hangs().await;
        }
        let calls = self.calls();
        let met = calls.get(planned.call - 1);
        let met = met.unwrap_or_else(|| panic!("before the fault: {what}"));
        if planned.fault.kills() && Some(met.pid) == self.window {
            self.context.server().exited().await;
        }
        self.be_alive().await;
        match planned.patience() {
            Patience::AsksAgain => {
                if matches!(self.armed, Armed::Hanging(_)) {
                    let armed = std::mem::replace(&mut self.armed, Armed::Nothing);
                    tokio::spawn(async move {
                        tokio::time::sleep(REDIAL).await;
                        armed.let_go();
                    });
                }
            }
            Patience::ComesBackLater => {
                std::mem::replace(&mut self.armed, Armed::Nothing).let_go();
                if planned.fault.outlives_its_client() {
                    self.seams.quiet(QUIET).await;
                }
                self.rest_and_check().await;
            }
        }
    }

    /// Between two calls of a server nothing may be wrong either (I2, I4).
    async fn look_while_it_hangs(&self) {
        let unsound = self.outside.unsound().await;
        assert!(unsound.is_empty(), "while it hangs: {unsound:#?}");
    }

    /// Starts the server again if it was killed.
    async fn be_alive(&mut self) {
        if self.context.server().is_running() {
            return;
        }
        self.gates = Gates::close(&self.seams);
        self.api = self.context.start().await;
    }

    /// Content that no other case has.
    pub(super) fn bytes(&self, which: u64) -> Vec<u8> {
        seeded_bytes(self.case * 16 + which, 1500)
    }

    fn key(&self, name: &str) -> String {
        format!("{name}-{}", self.case)
    }

    /// Uploads a raw body; its image.
    pub(super) async fn upload(&mut self, name: &str, bytes: &[u8]) -> String {
        let (hash, key) = (self.truth.expects_content(bytes), self.key(name));
        self.truth.asks_for(1);
        let request = |api: &Api| raw_upload(api, &key, bytes);
        let id = self.ask(201, request).await.image_id();
        self.truth.got(&id, &hash);
        id
    }

    /// Uploads files in one request; their images.
    pub(super) async fn upload_files(&mut self, name: &str, files: &[&[u8]]) -> Vec<String> {
        let hashes: Vec<_> = files
            .iter()
            .map(|file| self.truth.expects_content(file))
            .collect();
        let (parts, key) = (files.iter(), self.key(name));
        let parts: Vec<_> = parts
            .map(|file| FilePart::new("file", file.to_vec()))
            .collect();
        self.truth.asks_for(files.len());
        let request = |api: &Api| {
            api.files_request(&parts, None)
                .header("idempotency-key", &key)
        };
        let ids = self.ask(201, request).await.image_ids();
        assert_eq!(ids.len(), files.len());
        for (id, hash) in ids.iter().zip(&hashes) {
            self.truth.got(id, hash);
        }
        ids
    }

    /// A new reference to content that is there.
    pub(super) async fn reference(&mut self, name: &str, bytes: &[u8]) {
        let (hash, key) = (self.truth.expects_content(bytes), self.key(name));
        self.truth.asks_for(1);
        let body = json!({ "content_hash": hash });
        let request = |api: &Api| {
            let request = api.request(Method::POST, "/v1/images").json(&body);
            request.header("idempotency-key", &key)
        };
        let id = self.ask(201, request).await.image_id();
        self.truth.got(&id, &hash);
    }

    /// Uploads other content under a name that is taken: refused.
    pub(super) async fn upload_under_a_used_key(&mut self, name: &str, bytes: &[u8]) {
        let key = self.key(name);
        self.truth.expects_content(bytes);
        let request = |api: &Api| raw_upload(api, &key, bytes);
        self.ask(422, request)
            .await
            .problem(422, "idempotency-key-reused");
    }

    /// Deletes one image.
    pub(super) async fn delete(&mut self, id: &str) {
        let ids = [id.to_owned()];
        self.truth.asks_to_delete(&ids);
        let path = format!("/v1/images/{id}");
        self.ask(200, |api| api.request(Method::DELETE, &path))
            .await;
        self.truth.deleted(&ids);
    }

    /// Deletes images in one request.
    pub(super) async fn delete_many(&mut self, ids: &[String]) {
        self.truth.asks_to_delete(ids);
        let body = json!({ "ids": ids });
        let request = |api: &Api| api.request(Method::POST, "/v1/images/delete").json(&body);
        self.ask(200, request).await;
        self.truth.deleted(ids);
    }

    /// Delivers a deletion webhook until it is acknowledged; its answer.
    pub(super) async fn webhook(&mut self, name: &str, ids: &[String]) -> Value {
        let event_id = self.key(name);
        let new: Vec<_> = ids
            .iter()
            .filter(|id| self.truth.is_live(id))
            .cloned()
            .collect();
        self.truth.asks_to_delete(&new);
        let now = chrono::Utc::now();
        let body = json!({ "type": "image.deleted", "timestamp": now, "data": { "ids": ids } });
        let body = body.to_string();
        let signer = Webhook::new(SECRET).expect("a secret");
        let signature = signer.sign(&event_id, now.timestamp(), body.as_bytes());
        let signature = signature.expect("it can be signed");
        let request = |api: &Api| {
            api.request(Method::POST, "/v1/webhooks/deletions")
                .header("content-type", "application/json")
                .header("webhook-id", &event_id)
                .header("webhook-timestamp", now.timestamp().to_string())
                .header("webhook-signature", &signature)
                .body(body.clone())
        };
        let answer = self.ask(200, request).await.json();
        self.truth.deleted(&new);
        answer
    }

    /// Cuts the image's object short behind the server's back, and reads it: the damage is noticed.
    pub(super) async fn damage(&mut self, id: &str, bytes: &[u8]) {
        let hash = crate::harness::sha256_hex(bytes);
        let row = self.outside.stored(&hash).await.expect("it is stored");
        self.outside
            .plant_object(&row.s3_key, &bytes[..bytes.len() / 2])
            .await;
        self.truth.damaged(id, &row.s3_key);
    }

    /// Reads an image whose object is damaged.
    pub(super) async fn read_damaged(&mut self, id: &str) {
        let path = format!("/v1/images/{id}/content");
        let reply = self.ask(500, |api| api.request(Method::GET, &path)).await;
        assert_eq!(text_of(&reply.json()["code"]), "content-damaged");
    }

    /// Writes of this case whose answer is lost, and which cannot even be given up.
    pub(super) fn lose_next_write(&self) {
        let put = Filter::store("put");
        self.seams
            .decide(put, crate::harness::Times::Next(1), Verdict::FailAfter);
    }

    /// The next generation that is given up cannot be: its lease is left to run out.
    pub(super) fn fail_next_giving_up(&self) {
        let abandon = Filter::database("statement").with("DO UPDATE SET \"state\"");
        let abandon = abandon.with("INSERT INTO \"original_images\"");
        self.seams
            .decide(abandon, crate::harness::Times::Next(1), Verdict::Fail);
    }
}

fn raw_upload(api: &Api, key: &str, bytes: &[u8]) -> RequestBuilder {
    api.request(Method::POST, "/v1/images")
        .header("content-type", "application/octet-stream")
        .header("idempotency-key", key)
        .body(bytes.to_vec())
}

/// The calls that are swept: all but the store's id, which a server looks up once a minute.
fn counts(event: &Event, server: u32) -> bool {
    event.is_call() && !(event.pid == server && event.detail.contains("\"store_meta\""))
}

async fn exit(server: &mut Server) {
    while server.is_running() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
