use std::io::Cursor;

use image::{DynamicImage, ImageFormat, RgbImage, RgbaImage};

use super::*;
use crate::spool::{Caching, Expected, Spool};

fn encode(format: ImageFormat, width: u32, height: u32) -> Vec<u8> {
    let image = match format {
        ImageFormat::Farbfeld => DynamicImage::ImageRgba16(image::ImageBuffer::new(width, height)),
        ImageFormat::Hdr | ImageFormat::OpenExr => {
            DynamicImage::ImageRgb32F(image::ImageBuffer::new(width, height))
        }
        ImageFormat::Ico | ImageFormat::Gif => RgbaImage::new(width, height).into(),
        _ => RgbImage::new(width, height).into(),
    };
    let mut bytes = Cursor::new(Vec::new());
    image
        .write_to(&mut bytes, format)
        .expect("the format can be written");
    bytes.into_inner()
}

fn sniff_bytes(bytes: &[u8]) -> Sniffed {
    sniff_blocking(&SpooledBody::from_bytes(bytes.to_vec())).expect("memory can be read")
}

const FORMATS: [(ImageFormat, &str); 13] = [
    (ImageFormat::Png, "image/png"),
    (ImageFormat::Jpeg, "image/jpeg"),
    (ImageFormat::Gif, "image/gif"),
    (ImageFormat::WebP, "image/webp"),
    (ImageFormat::Bmp, "image/bmp"),
    (ImageFormat::Tiff, "image/tiff"),
    (ImageFormat::Ico, "image/vnd.microsoft.icon"),
    (ImageFormat::Qoi, "image/qoi"),
    (ImageFormat::Tga, "image/x-tga"),
    (ImageFormat::Pnm, "image/x-portable-arbitrarymap"),
    (ImageFormat::Farbfeld, "image/x-farbfeld"),
    (ImageFormat::Hdr, "image/vnd.radiance"),
    (ImageFormat::OpenExr, "image/x-exr"),
];

#[test]
fn knows_real_images_and_their_size() {
    for (format, mime_type) in FORMATS {
        for size in [(1, 1), (37, 23), (255, 130)] {
            let expected = Sniffed {
                mime_type: Some(mime_type),
                dimensions: Some(size),
            };
            let bytes = encode(format, size.0, size.1);
            assert_eq!(sniff_bytes(&bytes), expected, "{format:?} {size:?}");
        }
    }
}

#[test]
fn knows_the_older_netpbm_formats() {
    for (header, mime_type) in [
        ("P1\n3 2\n1 0 1 0 1 0", "image/x-portable-bitmap"),
        ("P4\t3 2 ......", "image/x-portable-bitmap"),
        ("P2 # by hand\n3 2 255 ", "image/x-portable-graymap"),
        ("P5\n3 2\n255\n......", "image/x-portable-graymap"),
        (
            "P6\n3\n2\n255\n..................",
            "image/x-portable-pixmap",
        ),
    ] {
        let expected = Sniffed {
            mime_type: Some(mime_type),
            dimensions: Some((3, 2)),
        };
        assert_eq!(sniff_bytes(header.as_bytes()), expected, "{header}");
    }
}

#[test]
fn the_head_alone_never_contradicts_the_whole() {
    for (format, mime_type) in FORMATS {
        let bytes = encode(format, 90, 70);
        let head = &bytes[..bytes.len().min(HEAD_BYTES)];
        let known = media_type(head);
        assert!(known.is_none() || known == Some(mime_type), "{format:?}");
    }
}

#[test]
fn knows_what_is_no_raster_image() {
    let svg = "\u{feff}<?xml version=\"1.0\"?>\n<!DOCTYPE svg PUBLIC \"x\" \"y\">\n<!-- a > b -->\n<svg\nwidth='1'/>";
    let mp4 = b"\0\0\0\x18ftypisom\0\0\0\0isommp41\0\0\0\x08mdat";
    let table: [(&[u8], Option<&str>); 12] = [
        (svg.as_bytes(), Some("image/svg+xml")),
        (b"<svg>", Some("image/svg+xml")),
        (b"<?xml version='1.0'?><feed/>", Some("text/xml")),
        (b"<!DOCTYPE html><svg></svg>", Some("image/svg+xml")),
        (b"<html ><svg></svg></html>", Some("text/html")),
        (b"%PDF-1.7\n...", Some("application/pdf")),
        (
            b"PK\x03\x04............................",
            Some("application/zip"),
        ),
        (mp4, Some("video/mp4")),
        (b"hello, world", None),
        (b"", None),
        (b"x", None),
        (&[0; 5000], None),
    ];
    for (bytes, mime_type) in table {
        let text = String::from_utf8_lossy(bytes);
        let expected = Sniffed {
            mime_type,
            dimensions: None,
        };
        assert_eq!(sniff_bytes(bytes), expected, "{text}");
    }
}

#[test]
fn text_with_the_magic_of_an_image_is_none() {
    for text in [
        "BMW is a car with four wheels, and more of this kind of text",
        "GIFs are fun, and more of this kind of text",
        "P1 and P2 are parts of this kind of text",
        "P3 is a prime minister's house of this kind",
        "12345678WEBP is a format, and more of this kind of text",
    ] {
        assert_eq!(sniff_bytes(text.as_bytes()), Sniffed::default(), "{text}");
    }
    // Two bytes of magic, and an empty directory of icons.
    assert_eq!(
        sniff_bytes(b"\0\0\x01\0\0\0aaaaaaaaaaaaaa").dimensions,
        None
    );
}

#[test]
fn reads_bitmaps_stored_top_to_bottom_and_of_os2() {
    let mut bytes = encode(ImageFormat::Bmp, 20, 10);
    bytes[22..26].copy_from_slice(&(-10_i32).to_le_bytes());
    assert_eq!(sniff_bytes(&bytes).dimensions, Some((20, 10)));
    let mut bytes = vec![0; 60];
    bytes[..2].copy_from_slice(b"BM");
    bytes[14] = 12;
    bytes[18] = 7;
    bytes[20] = 9;
    assert_eq!(sniff_bytes(&bytes).dimensions, Some((7, 9)));
}

#[test]
fn finds_sizes_far_behind_metadata_but_not_behind_any_amount() {
    let jpeg = encode(ImageFormat::Jpeg, 30, 20);
    let with_segments = |count: usize, length: u16| {
        let mut bytes = jpeg[..2].to_vec();
        for _ in 0..count {
            bytes.extend_from_slice(&[0xFF, 0xE2]);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.resize(bytes.len() + usize::from(length) - 2, 0);
        }
        bytes.extend_from_slice(&jpeg[2..]);
        sniff_bytes(&bytes)
    };
    assert_eq!(with_segments(100, 0xFFFF).dimensions, Some((30, 20)));
    let hostile = with_segments(500_000, 2);
    assert_eq!(hostile.mime_type, Some("image/jpeg"));
    assert_eq!(hostile.dimensions, None);
}

#[test]
fn sizes_that_no_image_has_are_unknown() {
    let png_of = |width: u32, height: u32| {
        let mut bytes = encode(ImageFormat::Png, 1, 1);
        bytes[16..20].copy_from_slice(&width.to_be_bytes());
        bytes[20..24].copy_from_slice(&height.to_be_bytes());
        sniff_bytes(&bytes)
    };
    for (width, height) in [(0, 1), (1, 0), (u32::MAX, 1), (1, 1 << 31)] {
        let expected = Sniffed {
            mime_type: Some("image/png"),
            dimensions: None,
        };
        assert_eq!(png_of(width, height), expected);
    }
    let largest = i32::MAX as u32;
    assert_eq!(png_of(largest, 1).dimensions, Some((largest, 1)));
}

/// A generator of its own, so that every run tries the same bytes.
fn noise(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

#[test]
fn hostile_headers_neither_panic_nor_hang() {
    let heif = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1\0\0\0\x60meta\0\0\0\0\0\0\0\x50iprp\0\0\0\x40ipco\0\0\0\x14ispe\0\0\0\0\0\0\0\x40\0\0\0\x30";
    let jxl = b"\0\0\0\x0CJXL \x0D\x0A\x87\x0A\0\0\0\x14ftypjxl \0\0\0\0jxl \0\0\0\x20jxlc\xFF\x0A\x01\x02\x03\x04\x05\x06";
    let big_tiff =
        b"II\x2B\0\x08\0\0\0\x10\0\0\0\0\0\0\0\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0\x01\x03\0";
    let mut seeds: Vec<Vec<u8>> = FORMATS
        .iter()
        .map(|(format, _)| encode(*format, 40, 30))
        .collect();
    seeds.extend([
        heif.to_vec(),
        jxl.to_vec(),
        big_tiff.to_vec(),
        vec![0xFF; 64],
    ]);
    let began = std::time::Instant::now();
    for (index, seed) in seeds.iter().enumerate() {
        for length in 0..seed.len().min(120) {
            sniff_bytes(&seed[..length]);
        }
        let mut random = noise(index as u64 + 1);
        for _ in 0..1500 {
            let mut bytes = seed.clone();
            for _ in 0..=random() % 8 {
                let range = bytes.len().min(200) as u64;
                let at = (random() % range) as usize;
                bytes[at] = [0, 1, 0x7F, 0x80, 0xFF, random() as u8][(random() % 6) as usize];
            }
            if let Some((width, height)) = sniff_bytes(&bytes).dimensions {
                assert!(i32::try_from(width).is_ok() && i32::try_from(height).is_ok());
                assert!(width > 0 && height > 0);
            }
        }
    }
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
}

#[tokio::test]
async fn files_are_sniffed_like_memory() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let spool = Spool::open(directory.path(), 1 << 20, 0, Caching::Cached).expect("writable");
    for (format, mime_type) in FORMATS {
        let mut writer = spool.writer(Expected::default());
        let bytes = encode(format, 50, 60);
        writer.write(bytes.into()).await.expect("spooled");
        let (body, _) = writer.finish().await.expect("spooled");
        assert!(body.is_file());
        let sniffed = sniff(&body).await.expect("readable");
        assert_eq!(sniffed.mime_type, Some(mime_type));
        assert_eq!(sniffed.dimensions, Some((50, 60)), "{format:?}");
    }
}

#[test]
fn accepts_by_pattern() {
    let accept = |patterns: &[&str], mime_type| {
        let patterns: Vec<String> = patterns.iter().map(|&p| p.to_owned()).collect();
        accepts(&patterns, mime_type)
    };
    assert!(accept(&["*/*"], None));
    assert!(accept(&["*/*"], Some("image/png")));
    assert!(accept(&["text/html", "image/*"], Some("image/png")));
    assert!(accept(&["IMAGE/PNG"], Some("image/png")));
    assert!(accept(&["application/octet-stream"], None));
    assert!(!accept(&["image/*"], None));
    assert!(!accept(&["image/*"], Some("imagex/png")));
    assert!(!accept(&["image/png"], Some("image/jpeg")));
    assert!(!accept(&[], Some("image/jpeg")));
}
