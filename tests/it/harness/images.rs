//! Content to upload: real image files of many formats, and bytes that no other case has.

use std::io::Cursor;
use std::sync::atomic::{AtomicU64, Ordering};

use image::codecs::pnm::{PnmEncoder, PnmSubtype, SampleEncoding};
use image::{DynamicImage, ImageFormat, Rgb, Rgb32FImage, RgbImage, Rgba, RgbaImage};
use sha2::{Digest, Sha256};

static NEXT: AtomicU64 = AtomicU64::new(1);

/// Pseudo-random bytes, different at every call.
pub(crate) fn distinct_bytes(length: usize) -> Vec<u8> {
    seeded_bytes(NEXT.fetch_add(1, Ordering::Relaxed), length)
}

/// Pseudo-random bytes that a seed decides (xorshift: fast, and no two seeds alike).
pub(crate) fn seeded_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Random choices that a seed decides: a failing case can be run again.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice of their own for every seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    /// A number from 0 to `end`, without `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }
}

/// SHA-256 as the API spells it.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A small PNG, different for every seed.
pub(crate) fn small_png(seed: u32) -> Vec<u8> {
    real_image(ImageFormat::Png, seed, 16, 12)
}

/// A real image file; the seed decides its pixels.
pub(crate) fn real_image(format: ImageFormat, seed: u32, width: u32, height: u32) -> Vec<u8> {
    let pixel = |x: u32, y: u32| {
        let mixed = (seed + 1)
            .wrapping_mul(2_654_435_761)
            .wrapping_add(x * 40_503 + y * 9_973);
        [mixed as u8, (mixed >> 8) as u8, (mixed >> 16) as u8]
    };
    let rgb = || RgbImage::from_fn(width, height, |x, y| Rgb(pixel(x, y)));
    let picture: DynamicImage = match format {
        ImageFormat::Hdr | ImageFormat::OpenExr => {
            let light = |x, y| Rgb(pixel(x, y).map(|channel| f32::from(channel) / 255.0));
            Rgb32FImage::from_fn(width, height, light).into()
        }
        ImageFormat::Farbfeld => DynamicImage::from(rgb()).to_rgba16().into(),
        ImageFormat::Ico | ImageFormat::Gif => RgbaImage::from_fn(width, height, |x, y| {
            let [r, g, b] = pixel(x, y);
            Rgba([r, g, b, 255])
        })
        .into(),
        _ => rgb().into(),
    };
    let mut file = Cursor::new(Vec::new());
    if format == ImageFormat::Pnm {
        // Without a word the encoder writes PAM, which hardly anybody else does.
        let subtype = PnmSubtype::Pixmap(SampleEncoding::Binary);
        let encoder = PnmEncoder::new(&mut file).with_subtype(subtype);
        picture
            .write_with_encoder(encoder)
            .expect("a pixmap can be written");
        return file.into_inner();
    }
    picture
        .write_to(&mut file, format)
        .unwrap_or_else(|error| panic!("{format:?}: {error}"));
    file.into_inner()
}
