//! A form's parts become the events of one upload.

use actix_web::dev::Payload;
use tokio::sync::mpsc;

use super::metadata::{MAX_METADATA_BYTES, parse_metadata};
use super::multipart::{MultipartParser, PartEvent, PartFilename, PartHead};
use super::problem::{Code, Problem};
use super::uploads::{FeedError, Pieces, send};
use crate::upload::BodyEvent;

/// Where the bytes of the current part go.
#[derive(Debug)]
enum Part {
    /// To the service.
    File,
    /// Into the request's metadata.
    Metadata(Vec<u8>),
    /// A file field in which nothing was chosen: bytes in it would be lost, so they are refused.
    Unchosen,
    /// Nowhere: a text field that means nothing here.
    Ignored,
}

struct Form {
    parser: Box<MultipartParser>,
    events: mpsc::Sender<BodyEvent>,
    max_files: usize,
    files: usize,
    has_metadata: bool,
    part: Part,
}

/// Feeds every file of a form, its metadata, and `Complete` once the body has ended well.
///
/// # Errors
/// The body is at fault, or the service has decided already.
pub async fn feed_form(
    payload: Payload,
    parser: Box<MultipartParser>,
    max_files: usize,
    events: mpsc::Sender<BodyEvent>,
) -> Result<(), FeedError> {
    let mut form = Form {
        parser,
        events,
        max_files,
        files: 0,
        has_metadata: false,
        part: Part::Ignored,
    };
    let mut pieces = Pieces::of(payload);
    while let Some(chunk) = pieces.next(&form.events).await {
        form.parser.feed(chunk?);
        while let Some(event) = form.parser.next_event()? {
            form.take(event).await?;
        }
    }
    form.parser.finish()?;
    if form.files == 0 {
        return Err(Problem::new(Code::NoFile, "no part of the form has a filename").into());
    }
    send(&form.events, BodyEvent::Complete).await
}

impl Form {
    async fn take(&mut self, event: PartEvent) -> Result<(), FeedError> {
        match event {
            PartEvent::Began(head) => self.begin(head).await,
            PartEvent::Data(bytes) => match &mut self.part {
                Part::File => send(&self.events, BodyEvent::Chunk(bytes)).await,
                Part::Metadata(text) if text.len() + bytes.len() <= MAX_METADATA_BYTES => {
                    text.extend_from_slice(&bytes);
                    Ok(())
                }
                Part::Metadata(_) => Err(Problem::new(
                    Code::InvalidMetadata,
                    "metadata is longer than 16 KiB",
                )
                .into()),
                Part::Unchosen => Err(Problem::new(
                    Code::InvalidFilename,
                    "a file part has an empty filename",
                )
                .into()),
                Part::Ignored => Ok(self.parser.charge_overhead(bytes.len())?),
            },
            PartEvent::Ended => self.end().await,
        }
    }

    async fn begin(&mut self, head: PartHead) -> Result<(), FeedError> {
        self.part = match head.filename {
            PartFilename::Named(filename) => {
                self.files += 1;
                if self.files > self.max_files {
                    let detail = format!("at most {} files at once", self.max_files);
                    return Err(Problem::new(Code::TooManyFiles, detail).into());
                }
                let filename = Some(filename);
                send(&self.events, BodyEvent::FileStarted { filename }).await?;
                Part::File
            }
            PartFilename::Empty => Part::Unchosen,
            PartFilename::Absent if head.name != "metadata" => Part::Ignored,
            PartFilename::Absent if self.has_metadata => {
                return Err(Problem::new(Code::InvalidMetadata, "two parts are metadata").into());
            }
            PartFilename::Absent => {
                self.has_metadata = true;
                Part::Metadata(Vec::new())
            }
        };
        Ok(())
    }

    async fn end(&mut self) -> Result<(), FeedError> {
        match std::mem::replace(&mut self.part, Part::Ignored) {
            Part::File => send(&self.events, BodyEvent::FileEnded).await,
            Part::Metadata(text) => {
                send(&self.events, BodyEvent::Metadata(parse_metadata(&text)?)).await
            }
            Part::Unchosen | Part::Ignored => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::web::Bytes;
    use futures::{StreamExt, stream};

    use super::*;

    fn part(disposition: &str, data: &str) -> String {
        format!("--X\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{data}\r\n")
    }

    /// What the service hears, and how the body ended.
    async fn hear(body: String) -> (Vec<String>, Result<(), Code>) {
        let parser = MultipartParser::for_content_type("multipart/form-data; boundary=X")
            .expect("a boundary");
        let chunks = body
            .into_bytes()
            .chunks(11)
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect::<Vec<_>>();
        let payload: Payload = Payload::Stream {
            payload: stream::iter(chunks).boxed_local(),
        };
        let (sender, mut receiver) = mpsc::channel(100_000);
        let result = feed_form(payload, Box::new(parser), 2, sender).await;
        let mut heard: Vec<String> = Vec::new();
        let mut in_file = false;
        while let Ok(event) = receiver.try_recv() {
            match event {
                BodyEvent::Soon => continue,
                BodyEvent::Chunk(bytes) => {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    if std::mem::replace(&mut in_file, true) {
                        heard.last_mut().expect("a chunk").push_str(&text);
                    } else {
                        heard.push(text);
                    }
                    continue;
                }
                BodyEvent::FileStarted { filename } => {
                    heard.push(format!("start {}", filename.unwrap_or_default()));
                }
                BodyEvent::FileEnded => heard.push("end".to_owned()),
                BodyEvent::Metadata(value) => heard.push(value.to_string()),
                BodyEvent::Complete => heard.push("complete".to_owned()),
            }
            in_file = false;
        }
        let result = result.map_err(|error| match error {
            FeedError::Refused(problem) => problem.code,
            FeedError::NobodyListens => panic!("the receiver is alive"),
        });
        (heard, result)
    }

    #[actix_web::test]
    async fn files_and_metadata_in_their_order() {
        let body = [
            part("name=\"note\"", "ignored"),
            part("name=\"a\"; filename=\"a.txt\"", "first file"),
            part("name=\"metadata\"", "{\"k\": 1}"),
            part("name=\"chosen\"; filename=\"\"", ""),
            part("name=\"a\"; filename=\"b.txt\"", "second"),
            "--X--\r\n".to_owned(),
        ];
        let (heard, result) = hear(body.concat()).await;
        assert_eq!(result, Ok(()));
        assert_eq!(
            heard,
            [
                "start a.txt",
                "first file",
                "end",
                "{\"k\":1}",
                "start b.txt",
                "second",
                "end",
                "complete"
            ]
        );
    }

    #[actix_web::test]
    async fn a_form_at_fault_is_never_complete() {
        let file = part("name=\"f\"; filename=\"a\"", "bytes");
        let end = "--X--\r\n".to_owned();
        for (body, code) in [
            (end.clone(), Code::NoFile),
            (part("name=\"f\"", "text") + &end, Code::NoFile),
            (part("name=\"f\"; filename=\"\"", "") + &end, Code::NoFile),
            (
                part("name=\"f\"; filename=\"\"", "bytes") + &end,
                Code::InvalidFilename,
            ),
            (String::new(), Code::IncompleteBody),
            (file.clone(), Code::IncompleteBody),
            (file.clone() + "--X", Code::IncompleteBody),
            (file.clone() + "--Y--\r\n", Code::IncompleteBody),
            (file.clone() + "--X garbage", Code::MalformedMultipart),
            (file.repeat(3) + &end, Code::TooManyFiles),
            (
                file.clone() + &part("name=\"metadata\"", "[]") + &end,
                Code::InvalidMetadata,
            ),
            (
                file.clone() + &part("name=\"metadata\"", "{}").repeat(2) + &end,
                Code::InvalidMetadata,
            ),
            (
                file.clone() + &part("name=\"metadata\"", &" ".repeat(17_000)) + &end,
                Code::InvalidMetadata,
            ),
            (
                file.clone() + &part("name=\"text\"", &"x".repeat(2_000_000)) + &end,
                Code::MalformedMultipart,
            ),
        ] {
            let (heard, result) = hear(body).await;
            assert_eq!(result, Err(code));
            assert!(!heard.contains(&"complete".to_owned()), "{code:?}");
        }
    }
}
