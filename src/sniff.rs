//! What bytes are, from the bytes alone: media type and pixel size, never by decoding pixels and never
//! from what the client says.
//!
//! **Invariants.** The bytes are hostile: what is read of them and the work spent on them is bounded, a
//! panic of a parser is an unknown type, and nothing here fails an upload but a disk that cannot be read.

mod header;
mod media;

use std::io;

use crate::spool::SpooledBody;

use header::HeaderReader;
pub use media::media_type;

/// What [`media_type`] wants to see: the first bytes of a body, or all of it where it is shorter.
pub const HEAD_BYTES: usize = 8 * 1024;

/// The type that bytes of no known type count as.
pub const UNKNOWN_TYPE: &str = "application/octet-stream";

/// What the bytes look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sniffed {
    /// `None` where unknown.
    pub mime_type: Option<&'static str>,
    /// Width and height in pixels, each 1 to `i32::MAX`; `None` for what is no raster image and where
    /// the header does not tell.
    pub dimensions: Option<(u32, u32)>,
}

/// Looks at a whole body. Bounded work; blocks on the disk where the body is a file: then call it where
/// blocking is allowed, or use [`sniff`].
///
/// # Errors
/// The body could not be read.
pub fn sniff_blocking(body: &SpooledBody) -> io::Result<Sniffed> {
    let head = body.head(HEAD_BYTES)?;
    let Some(mime_type) = media_type(&head) else {
        // A TGA may have its signature at its end, which only this reader sees.
        let is_tga = parser(|| imagesize::reader_type(HeaderReader::new(body)).ok())
            == Some(imagesize::ImageType::Tga);
        return Ok(if is_tga {
            Sniffed {
                mime_type: Some(media::TGA),
                dimensions: dimensions(body, &head, media::TGA),
            }
        } else {
            Sniffed::default()
        });
    };
    Ok(Sniffed {
        mime_type: Some(mime_type),
        dimensions: dimensions(body, &head, mime_type),
    })
}

/// As [`sniff_blocking`], off this thread where the body is a file.
///
/// # Errors
/// The body could not be read.
pub async fn sniff(body: &SpooledBody) -> io::Result<Sniffed> {
    if !body.is_file() {
        return sniff_blocking(body);
    }
    let body = body.clone();
    tokio::task::spawn_blocking(move || sniff_blocking(&body))
        .await
        .map_err(io::Error::other)?
}

/// Whether `upload.accept` takes a sniffed type: `*/*`, `image/*` or the exact type, by any pattern.
pub fn accepts(patterns: &[String], mime_type: Option<&str>) -> bool {
    let mime_type = mime_type.unwrap_or(UNKNOWN_TYPE);
    patterns.iter().any(|pattern| {
        let pattern = pattern.trim();
        match pattern.strip_suffix("/*") {
            Some("*") => true,
            Some(kind) => mime_type
                .split_once('/')
                .is_some_and(|(its_kind, _)| its_kind.eq_ignore_ascii_case(kind)),
            None => pattern.eq_ignore_ascii_case(mime_type),
        }
    })
}

/// Pixel size of a raster image.
fn dimensions(body: &SpooledBody, head: &[u8], mime_type: &str) -> Option<(u32, u32)> {
    if !mime_type.starts_with("image/") || mime_type == media::SVG {
        return None;
    }
    match mime_type {
        media::BMP => media::bmp_size(head),
        media::PAM => media::pam_size(head),
        _ => parser(|| imagesize::reader_size(HeaderReader::new(body)).ok())
            .and_then(media::plausible),
    }
}

/// Runs a third party's parser on hostile bytes: a panic is "unknown".
fn parser<T>(parse: impl FnOnce() -> Option<T>) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(parse)).unwrap_or_else(|_| {
        tracing::warn!("a header parser panicked; the type counts as unknown");
        None
    })
}

#[cfg(test)]
mod tests;
