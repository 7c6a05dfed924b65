//! Real image files of many formats come back bit for bit, with the right type and size.

use image::ImageFormat;
use serde_json::json;

use crate::harness::{Context, FilePart, Reply, cases, real_image, sha256_hex};

cases! {
    both: [two_hundred_real_images],
}

const FORMATS: &[(ImageFormat, &str)] = &[
    (ImageFormat::Png, "image/png"),
    (ImageFormat::Jpeg, "image/jpeg"),
    (ImageFormat::Gif, "image/gif"),
    (ImageFormat::WebP, "image/webp"),
    (ImageFormat::Bmp, "image/bmp"),
    (ImageFormat::Tiff, "image/tiff"),
    (ImageFormat::Ico, "image/vnd.microsoft.icon"),
    (ImageFormat::Qoi, "image/qoi"),
    (ImageFormat::OpenExr, "image/x-exr"),
    (ImageFormat::Hdr, "image/vnd.radiance"),
    (ImageFormat::Farbfeld, "image/x-farbfeld"),
    (ImageFormat::Pnm, "image/x-portable-pixmap"),
];

/// 17 files of each of 12 formats.
async fn two_hundred_real_images(ctx: &mut Context) {
    let api = ctx.start().await;
    let mut count = 0;
    for (number, (format, mime_type)) in FORMATS.iter().enumerate() {
        let mut files = Vec::new();
        for seed in 0..17 {
            let (width, height) = (20 + seed, 61 - 2 * seed + number as u32);
            let bytes = real_image(*format, seed + 100 * number as u32, width, height);
            files.push((bytes, width, height));
        }
        // Some by form, some raw.
        let parts: Vec<FilePart> = files[..10]
            .iter()
            .map(|(bytes, ..)| FilePart::new("picture", bytes.clone()))
            .collect();
        let reply = api.upload_files(&parts, None).await.expect(201).json();
        let mut images = reply["images"].as_array().expect("a list").clone();
        for (bytes, ..) in &files[10..] {
            images.push(api.upload(bytes.clone()).await.expect(201).json());
        }
        for (image, (bytes, width, height)) in images.iter().zip(&files) {
            assert_eq!(image["mime_type"], *mime_type, "{format:?}: {image}");
            assert_eq!(image["width"], json!(width), "{format:?}: {image}");
            assert_eq!(image["height"], json!(height), "{format:?}: {image}");
            assert_eq!(image["file_size"], bytes.len(), "{format:?}: {image}");
            assert_eq!(
                image["content_hash"],
                sha256_hex(bytes),
                "{format:?}: {image}"
            );
            assert_eq!(
                image["deduplicated"], false,
                "{format:?}: all are different"
            );
            let id = image["id"].as_str().expect("an id");
            let reply: Reply = api.content(id).await.expect(200);
            assert!(reply.body == *bytes, "{format:?}: bit for bit");
            assert_eq!(reply.header("content-type").as_deref(), Some(*mime_type));
            count += 1;
        }
    }
    assert!(count >= 200, "{count}");
    assert_eq!(ctx.outside().await.object_count().await, count);
}
