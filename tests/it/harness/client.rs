//! A client of the API: what it sends is what a person's client would send, and answers keep all that
//! a check may want to see.

use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

/// The keys of an image, sorted; the answer to an upload adds `deduplicated`.
const IMAGE_KEYS: &[&str] = &[
    "content_hash",
    "created_at",
    "deleted_at",
    "file_size",
    "filename",
    "height",
    "id",
    "metadata",
    "mime_type",
    "original_image_id",
    "width",
];

/// A server, and the key to show it.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) base: String,
    pub(crate) token: Option<String>,
    http: reqwest::Client,
}

/// One file of a multipart request.
#[derive(Debug, Clone)]
pub(crate) struct FilePart {
    pub(crate) field: &'static str,
    pub(crate) filename: String,
    pub(crate) bytes: Bytes,
}

impl FilePart {
    /// A file in the field `file`.
    pub(crate) fn new(filename: &str, bytes: impl Into<Bytes>) -> Self {
        Self {
            field: "file",
            filename: filename.to_owned(),
            bytes: bytes.into(),
        }
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Api {
    /// A client of the server at `base`.
    pub(crate) fn new(base: &str) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client without TLS can be made");
        Self {
            base: base.to_owned(),
            token: None,
            http,
        }
    }

    /// The same server with this key.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    /// A request to build on.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends it, or tells why there was no whole answer.
    pub(crate) async fn try_send(&self, request: RequestBuilder) -> Result<Reply, reqwest::Error> {
        let answer = request.send().await?;
        Ok(Reply {
            status: answer.status().as_u16(),
            headers: answer.headers().clone(),
            body: answer.bytes().await?,
        })
    }

    /// Sends it.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Reply {
        self.try_send(request)
            .await
            .unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }

    /// `GET path`
    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path)).await
    }

    /// `GET path` with headers.
    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        let request = self.request(Method::GET, path);
        self.send(with_headers(request, headers)).await
    }

    /// A metric without labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.expect(200).text_whole();
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")));
        let line = line.unwrap_or_else(|| panic!("{name} is not among the metrics"));
        line[name.len()..].trim().parse().expect("a number")
    }

    /// `POST path` with a JSON body.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// `POST path` with any body.
    pub(crate) async fn post_raw(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let request = self.request(Method::POST, path).body(body.into());
        self.send(with_headers(request, headers)).await
    }

    /// `DELETE /v1/images/{id}`
    pub(crate) async fn delete(&self, id: &str) -> Reply {
        self.send(self.request(Method::DELETE, &format!("/v1/images/{id}")))
            .await
    }

    /// `POST /v1/images/delete`
    pub(crate) async fn delete_many(&self, ids: &[String]) -> Reply {
        self.post("/v1/images/delete", &json!({ "ids": ids })).await
    }

    /// `GET /v1/images/{id}`
    pub(crate) async fn image(&self, id: &str) -> Reply {
        self.get(&format!("/v1/images/{id}")).await
    }

    /// `GET /v1/images/{id}/content`
    pub(crate) async fn content(&self, id: &str) -> Reply {
        self.get(&format!("/v1/images/{id}/content")).await
    }

    /// `GET /v1/originals/{hash}`
    pub(crate) async fn original(&self, hash: &str) -> Reply {
        self.get(&format!("/v1/originals/{hash}")).await
    }

    /// Uploads a raw body.
    pub(crate) async fn upload(&self, bytes: impl Into<Bytes>) -> Reply {
        self.upload_with(bytes, &[]).await
    }

    /// Uploads a raw body with headers.
    pub(crate) async fn upload_with(
        &self,
        bytes: impl Into<Bytes>,
        headers: &[(&str, &str)],
    ) -> Reply {
        let mut all = vec![("content-type", "application/octet-stream")];
        all.extend(headers.iter().filter(|(name, _)| *name != "content-type"));
        let given = headers.iter().find(|(name, _)| *name == "content-type");
        if let Some(given) = given {
            all[0] = *given;
        }
        self.post_raw("/v1/images", &all, bytes).await
    }

    /// Uploads a raw body that must be taken; its image's id.
    pub(crate) async fn upload_id(&self, bytes: impl Into<Bytes>) -> String {
        self.upload(bytes).await.expect(201).image_id()
    }

    /// Uploads files in one multipart request.
    pub(crate) async fn upload_files(&self, files: &[FilePart], metadata: Option<&str>) -> Reply {
        self.upload_files_with(files, metadata, &[]).await
    }

    /// Uploads files in one multipart request with headers.
    pub(crate) async fn upload_files_with(
        &self,
        files: &[FilePart],
        metadata: Option<&str>,
        headers: &[(&str, &str)],
    ) -> Reply {
        let request = self.files_request(files, metadata);
        self.send(with_headers(request, headers)).await
    }

    /// The multipart request for these files.
    pub(crate) fn files_request(
        &self,
        files: &[FilePart],
        metadata: Option<&str>,
    ) -> RequestBuilder {
        let mut form = Form::new();
        if let Some(metadata) = metadata {
            form = form.text("metadata", metadata.to_owned());
        }
        for file in files {
            let length = file.bytes.len() as u64;
            let part = Part::stream_with_length(file.bytes.clone(), length)
                .file_name(file.filename.clone());
            form = form.part(file.field, part);
        }
        self.request(Method::POST, "/v1/images").multipart(form)
    }
}

fn with_headers(mut request: RequestBuilder, headers: &[(&str, &str)]) -> RequestBuilder {
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request
}

impl Reply {
    /// Fails the test unless the status is this one.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "status; body: {}", self.text());
        assert!(
            self.header("x-request-id").is_some_and(|id| !id.is_empty()),
            "every answer carries X-Request-Id"
        );
        self
    }

    /// Fails the test unless this is the problem document of RFC 9457 with this code.
    #[track_caller]
    pub(crate) fn problem(self, status: u16, code: &str) -> Self {
        let reply = self.expect(status);
        assert_eq!(
            reply.header("content-type").as_deref(),
            Some("application/problem+json"),
            "{}",
            reply.text()
        );
        let problem = reply.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        for member in ["type", "title", "detail", "request_id"] {
            let text = problem[member].as_str();
            assert!(
                text.is_some_and(|text| !text.is_empty()),
                "{member}: {problem}"
            );
        }
        assert_eq!(
            problem["request_id"].as_str(),
            reply.header("x-request-id").as_deref(),
            "{problem}"
        );
        reply
    }

    /// A header, if it is there and readable.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let value = self.headers.get(name)?.to_str().ok()?;
        Some(value.to_owned())
    }

    /// The body for people.
    pub(crate) fn text(&self) -> String {
        let end = self.body.len().min(2000);
        String::from_utf8_lossy(&self.body[..end]).into_owned()
    }

    /// All of the body.
    pub(crate) fn text_whole(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }

    /// `id` of the body.
    #[track_caller]
    pub(crate) fn image_id(&self) -> String {
        text_of(&self.json()["id"])
    }

    /// The ids of `images` of the body, in order.
    #[track_caller]
    pub(crate) fn image_ids(&self) -> Vec<String> {
        let body = self.json();
        let images = body["images"].as_array().expect("a list of images");
        images.iter().map(|image| text_of(&image["id"])).collect()
    }
}

/// A JSON string.
#[track_caller]
pub(crate) fn text_of(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not a string: {value}"))
        .to_owned()
}

/// Fails the test unless the object has exactly these keys.
#[track_caller]
pub(crate) fn assert_keys(value: &Value, keys: &[&str]) {
    let object = value.as_object();
    let object = object.unwrap_or_else(|| panic!("not an object: {value}"));
    let mut present: Vec<&str> = object.keys().map(String::as_str).collect();
    present.sort_unstable();
    let mut expected = keys.to_vec();
    expected.sort_unstable();
    assert_eq!(present, expected, "{value}");
}

/// Fails the test unless this is an image as the contract spells it.
#[track_caller]
pub(crate) fn assert_image(image: &Value, in_upload_answer: bool) {
    let mut keys = IMAGE_KEYS.to_vec();
    if in_upload_answer {
        keys.push("deduplicated");
        assert!(image["deduplicated"].is_boolean(), "{image}");
    }
    assert_keys(image, &keys);
    let id = text_of(&image["id"]);
    assert!(uuid::Uuid::parse_str(&id).is_ok(), "{image}");
    assert_time(&image["created_at"]);
}

/// Fails the test unless this is an RFC 3339 time in UTC.
#[track_caller]
pub(crate) fn assert_time(value: &Value) {
    let text = text_of(value);
    let time = chrono::DateTime::parse_from_rfc3339(&text);
    let time = time.unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(time.offset().local_minus_utc(), 0, "{text} is not UTC");
}
