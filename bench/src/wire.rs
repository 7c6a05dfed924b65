//! HTTP/1.1 as a load generator needs it: one keep-alive connection, one request at a time, no copy of
//! the body, and an answer that is read but hardly looked at.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::body::Body;

/// Enough for an answer's head and for reading content in few calls.
const BUFFER_BYTES: usize = 256 * 1024;
/// An answer's body up to this is kept for whoever looks into it.
const KEPT_BYTES: u64 = 1024 * 1024;

/// One answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    /// Empty where it was longer than 1 MiB.
    pub(crate) body: Vec<u8>,
    pub(crate) body_bytes: u64,
}

impl Reply {
    /// The reply, if it has the expected status.
    pub(crate) fn expect(self, status: u16) -> Result<Self> {
        ensure!(
            self.status == status,
            "answered {} instead of {status}: {}",
            self.status,
            String::from_utf8_lossy(&self.body[..self.body.len().min(300)])
        );
        Ok(self)
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).context("the answer is no JSON")
    }
}

/// A connection to one server.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    buffer: Vec<u8>,
    filled: usize,
}

struct Head {
    status: u16,
    length: u64,
    location: Option<String>,
    closes: bool,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        Ok(Self {
            stream: connect(address).await?,
            address,
            buffer: vec![0; BUFFER_BYTES],
            filled: 0,
        })
    }

    /// Sends a request without a body, or with a short one. `headers` are whole lines.
    pub(crate) async fn short(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> Result<Reply> {
        let mut request = head(method, path, headers, self.address, body.len() as u64);
        request.extend_from_slice(body);
        self.stream.write_all(&request).await?;
        self.reply().await
    }

    /// Sends a request with a prepared body.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &Body,
    ) -> Result<Reply> {
        let request = head(method, path, headers, self.address, body.len());
        let mut pieces = body.pieces();
        let first = pieces.next().unwrap_or_default();
        self.write_both(&request, first).await?;
        for piece in pieces {
            self.stream.write_all(piece).await?;
        }
        self.reply().await
    }

    /// Head and body in one system call where the socket takes them.
    async fn write_both(&mut self, head: &[u8], body: &[u8]) -> Result<()> {
        let slices = [std::io::IoSlice::new(head), std::io::IoSlice::new(body)];
        let sent = self.stream.write_vectored(&slices).await?;
        if sent < head.len() {
            self.stream.write_all(&head[sent..]).await?;
        }
        self.stream
            .write_all(&body[sent.saturating_sub(head.len())..])
            .await?;
        Ok(())
    }

    async fn reply(&mut self) -> Result<Reply> {
        let (head, head_bytes) = self.read_head().await?;
        let mut body = Vec::new();
        let keep = head.length <= KEPT_BYTES;
        let mut received = (self.filled - head_bytes) as u64;
        if keep {
            body.extend_from_slice(&self.buffer[head_bytes..self.filled]);
        }
        while received < head.length {
            let count = self.stream.read(&mut self.buffer).await?;
            ensure!(
                count > 0,
                "the server closed the connection inside an answer"
            );
            received += count as u64;
            if keep {
                body.extend_from_slice(&self.buffer[..count]);
            }
        }
        ensure!(
            received == head.length,
            "more bytes than Content-Length says"
        );
        self.filled = 0;
        if head.closes {
            self.stream = connect(self.address).await?;
        }
        Ok(Reply {
            status: head.status,
            location: head.location,
            body,
            body_bytes: head.length,
        })
    }

    async fn read_head(&mut self) -> Result<(Head, usize)> {
        self.filled = 0;
        loop {
            let count = self.stream.read(&mut self.buffer[self.filled..]).await?;
            ensure!(
                count > 0,
                "the server closed the connection before an answer"
            );
            self.filled += count;
            let text = &self.buffer[..self.filled];
            if let Some(end) = text.windows(4).position(|four| four == b"\r\n\r\n") {
                return Ok((parse_head(&text[..end])?, end + 4));
            }
            ensure!(
                self.filled < self.buffer.len(),
                "the answer's head has no end"
            );
        }
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)
        .await
        .context("cannot connect")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn head(method: &str, path: &str, headers: &str, host: SocketAddr, length: u64) -> Vec<u8> {
    let length = match (method, length) {
        ("GET" | "HEAD" | "DELETE", 0) => String::new(),
        (_, length) => format!("Content-Length: {length}\r\n"),
    };
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}{length}\r\n").into_bytes()
}

fn parse_head(head: &[u8]) -> Result<Head> {
    let text = std::str::from_utf8(head).context("the answer's head is no text")?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .unwrap_or_default();
    let mut parsed = Head {
        status: status.parse().context("the answer has no status")?,
        length: 0,
        location: None,
        closes: false,
    };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            parsed.length = value.parse().context("Content-Length is no number")?;
        } else if name.eq_ignore_ascii_case("location") {
            parsed.location = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case("connection") {
            parsed.closes = value.eq_ignore_ascii_case("close");
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            bail!("a chunked answer is not expected here");
        }
    }
    if matches!(parsed.status, 204 | 304) {
        parsed.length = 0;
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_understood() {
        let head = parse_head(
            b"HTTP/1.1 202 Accepted\r\ncontent-length: 12\r\nLocation: /x?y=1\r\nConnection: close",
        )
        .expect("well formed");
        assert_eq!((head.status, head.length), (202, 12));
        assert_eq!(head.location.as_deref(), Some("/x?y=1"));
        assert!(head.closes);
        assert!(parse_head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked").is_err());
    }
}
