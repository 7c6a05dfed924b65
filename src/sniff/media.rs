//! Media types by the first bytes: two crates' tables, each where it is the stronger.

use std::io::Cursor;

use imagesize::{Compression, ImageSize, ImageType};

use super::parser;

pub(super) const BMP: &str = "image/bmp";
pub(super) const PAM: &str = "image/x-portable-arbitrarymap";
pub(super) const SVG: &str = "image/svg+xml";
pub(super) const TGA: &str = "image/x-tga";

/// The media type of bytes that begin with `head` ([`super::HEAD_BYTES`] of them, or all); `None` where
/// unknown. Registered names where there are any, else the ones of the freedesktop.org database.
pub fn media_type(head: &[u8]) -> Option<&'static str> {
    let infer_says = parser(|| infer::get(head).map(|kind| kind.mime_type()));
    let image = parser(|| imagesize::image_type(head).ok());
    match infer_says {
        // Two or three bytes of magic: other bytes must confirm it, or a text that begins with "BM" or
        // "GIF" would be an image.
        Some(BMP) => bmp_size(head).map(|_| BMP),
        Some("image/gif") => (image == Some(ImageType::Gif)).then_some("image/gif"),
        Some("image/webp") => (image == Some(ImageType::Webp)).then_some("image/webp"),
        Some("image/jxl") => confirmed(head, image, ImageType::Jxl, "image/jxl"),
        Some("image/vnd.microsoft.icon") => {
            confirmed(head, image, ImageType::Ico, "image/vnd.microsoft.icon")
        }
        Some("image/heif") if is_heic(head) => Some("image/heic"),
        Some("text/xml" | "text/html") if is_svg(head) => Some(SVG),
        Some(mime_type) => Some(mime_type),
        None if is_svg(head) => Some(SVG),
        None if pam_size(head).is_some() => Some(PAM),
        None => image.and_then(|image| image_media_type(head, image)),
    }
}

/// Types that `infer` does not know, or knows less well.
fn image_media_type(head: &[u8], image: ImageType) -> Option<&'static str> {
    Some(match image {
        ImageType::Jpeg => "image/jpeg",
        ImageType::Png => "image/png",
        ImageType::Gif => "image/gif",
        ImageType::Tiff => "image/tiff",
        ImageType::Webp => "image/webp",
        ImageType::Heif(Compression::Hevc) => "image/heif",
        ImageType::Heif(Compression::Av1) => "image/avif",
        ImageType::Qoi => "image/qoi",
        ImageType::Exr => "image/x-exr",
        ImageType::Hdr => "image/vnd.radiance",
        ImageType::Farbfeld => "image/x-farbfeld",
        ImageType::Ktx2 => "image/ktx2",
        ImageType::Dds(_) => "image/x-dds",
        ImageType::Psd => "image/vnd.adobe.photoshop",
        ImageType::Ilbm => "image/x-ilbm",
        ImageType::Tga => TGA,
        ImageType::Pnm => pnm_media_type(head)?,
        // Game textures without a name of their own, guesses by two bytes, and every other ISO container.
        _ => return None,
    })
}

/// A type that counts only where `imagesize` agrees and finds a size in it.
fn confirmed(
    head: &[u8],
    image: Option<ImageType>,
    expected: ImageType,
    mime_type: &'static str,
) -> Option<&'static str> {
    let size = || parser(|| imagesize::blob_size(head).ok()).and_then(plausible);
    (image == Some(expected) && size().is_some()).then_some(mime_type)
}

/// "P1" to "P6" begins many a text: white space or a comment must follow, and a size.
fn pnm_media_type(head: &[u8]) -> Option<&'static str> {
    let separator = head.get(2)?;
    let size = parser(|| ImageType::Pnm.reader_size(&mut Cursor::new(head)).ok());
    if !(separator.is_ascii_whitespace() || *separator == b'#')
        || size.and_then(plausible).is_none()
    {
        return None;
    }
    Some(match head.get(1)? {
        b'1' | b'4' => "image/x-portable-bitmap",
        b'2' | b'5' => "image/x-portable-graymap",
        _ => "image/x-portable-pixmap",
    })
}

/// HEVC inside, by the major brand; the other brands of HEIF leave the coding open.
fn is_heic(head: &[u8]) -> bool {
    matches!(head.get(8..12), Some(b"heic" | b"heix"))
}

/// Whether the first element is `<svg`, after whatever XML allows before it.
fn is_svg(head: &[u8]) -> bool {
    let mut rest = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head);
    loop {
        rest = rest.trim_ascii_start();
        let (open, close): (&[u8], &[u8]) = match rest {
            [b'<', b'?', ..] => (b"<?", b"?>"),
            [b'<', b'!', b'-', b'-', ..] => (b"<!--", b"-->"),
            [b'<', b'!', ..] => (b"<!", b">"),
            _ => break,
        };
        let Some(end) = find(&rest[open.len()..], close) else {
            return false;
        };
        rest = &rest[open.len() + end + close.len()..];
    }
    rest.strip_prefix(b"<svg")
        .and_then(<[u8]>::first)
        .is_some_and(|next| next.is_ascii_whitespace() || matches!(next, b'>' | b'/'))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

/// Pixel size of a BMP, by the length of its info header as Windows documents it. `imagesize` takes
/// no notice of OS/2's 16-bit sizes nor of the negative height of rows stored top to bottom.
pub(super) fn bmp_size(head: &[u8]) -> Option<(u32, u32)> {
    let four = |at: usize| {
        head.get(at..at + 4)?
            .try_into()
            .ok()
            .map(i32::from_le_bytes)
    };
    let two = |at: usize| {
        head.get(at..at + 2)?
            .try_into()
            .ok()
            .map(u16::from_le_bytes)
    };
    let (width, height) = match four(14)? {
        12 => (u32::from(two(18)?), u32::from(two(20)?)),
        16 | 40 | 52 | 56 | 64 | 108 | 124 => {
            (u32::try_from(four(18)?).ok()?, four(22)?.unsigned_abs())
        }
        _ => return None,
    };
    let size = ImageSize {
        width: width as usize,
        height: height as usize,
    };
    head.starts_with(b"BM").then_some(size).and_then(plausible)
}

/// Pixel size of a PAM (`P7`), which neither crate knows: a line `WIDTH n` and a line `HEIGHT n` before
/// `ENDHDR`, as netpbm documents it.
pub(super) fn pam_size(head: &[u8]) -> Option<(u32, u32)> {
    let (mut width, mut height) = (None, None);
    for line in head.strip_prefix(b"P7\n")?.split(|byte| *byte == b'\n') {
        let line = std::str::from_utf8(line).ok()?;
        match line.split_once(' ') {
            _ if line == "ENDHDR" => break,
            Some(("WIDTH", number)) => width = number.trim().parse().ok(),
            Some(("HEIGHT", number)) => height = number.trim().parse().ok(),
            _ => {}
        }
    }
    plausible(ImageSize {
        width: width?,
        height: height?,
    })
}

/// Sizes that the database can hold and an image can have.
pub(super) fn plausible(size: ImageSize) -> Option<(u32, u32)> {
    let fits = |pixels: usize| {
        let pixels = i32::try_from(pixels).ok()?;
        u32::try_from(pixels).ok().filter(|pixels| *pixels > 0)
    };
    fits(size.width).zip(fits(size.height))
}
