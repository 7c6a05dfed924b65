//! The parser against whole, split and broken bodies.

use super::*;

const TYPE: &str = "multipart/form-data; boundary=XX";

/// Parts as (name, filename, bytes).
type Parts = Vec<(String, PartFilename, Vec<u8>)>;

fn parse(content_type: &str, body: &[u8], piece: usize) -> Result<Parts, MultipartError> {
    let mut parser = MultipartParser::for_content_type(content_type)?;
    let mut parts = Parts::new();
    let mut open = false;
    for bytes in body.chunks(piece.max(1)) {
        parser.feed(Bytes::copy_from_slice(bytes));
        while let Some(event) = parser.next_event()? {
            match event {
                PartEvent::Began(head) => {
                    assert!(!std::mem::replace(&mut open, true));
                    parts.push((head.name, head.filename, Vec::new()));
                }
                PartEvent::Data(bytes) => {
                    assert!(open && !bytes.is_empty());
                    parts.last_mut().expect("began").2.extend_from_slice(&bytes);
                }
                PartEvent::Ended => assert!(std::mem::replace(&mut open, false)),
            }
        }
    }
    parser.finish()?;
    assert!(!open);
    Ok(parts)
}

fn file(name: &str) -> PartFilename {
    PartFilename::Named(name.to_owned())
}

/// One part with this head besides its disposition, and these bytes.
fn one_part(head: &str, data: &str) -> Vec<u8> {
    format!("--XX\r\n{head}\r\n\r\n{data}\r\n--XX--\r\n").into_bytes()
}

const FILE: &str = "Content-Disposition: form-data; name=\"f\"; filename=\"a\"";

#[test]
fn any_split_gives_the_same_parts() {
    let mut body = b"ignored preamble\r\n--XX\r\nContent-Disposition: form-data; name=\"metadata\"\r\n\r\n{}\r\n".to_vec();
    body.extend_from_slice(b"--XX \t\r\ncontent-disposition: form-data; name=f; filename=\"a.bin\"\r\nContent-Length: 2\r\n\r\n");
    let bytes = b"\r\n--X\r\r\n--\r\n--Y\r\r\n\r\n--X";
    body.extend_from_slice(bytes);
    body.extend_from_slice(b"\r\n--XX--\r\nignored epilogue");
    let expected = vec![
        ("metadata".to_owned(), PartFilename::Absent, b"{}".to_vec()),
        ("f".to_owned(), file("a.bin"), bytes.to_vec()),
    ];
    for piece in 1..=body.len() {
        assert_eq!(parse(TYPE, &body, piece).as_ref(), Ok(&expected), "{piece}");
    }
}

#[test]
fn the_bound_of_a_head_is_the_same_for_every_cut() {
    for (padding, fits) in [(0, true), (1, false)] {
        let line = format!("{FILE}\r\nX-A: ");
        // A head begins with the line break of its delimiter.
        let padding = MAX_HEAD_BYTES - 2 - line.len() + padding;
        let body = one_part(&format!("{line}{}", "b".repeat(padding)), "x");
        for piece in [1, 2, 3, 5, 16_391, 16_392, 16_393, body.len()] {
            assert_eq!(parse(TYPE, &body, piece).is_ok(), fits, "{piece}");
        }
    }
}

/// Each byte costs about the same, wherever it stands: 40 heads of 16 KiB, byte by byte, would
/// otherwise be searched and copied for seconds.
#[test]
fn a_head_byte_by_byte_costs_no_more_than_its_bytes() {
    let padding = "b".repeat(16_000);
    let part = format!("--XX\r\n{FILE}\r\nX-A: {padding}\r\n\r\nx\r\n");
    let body = part.repeat(40) + "--XX--";
    let began = std::time::Instant::now();
    let parts = parse(TYPE, body.as_bytes(), 1).expect("well-formed");
    assert_eq!(parts.len(), 40);
    let took = began.elapsed();
    assert!(took < std::time::Duration::from_secs(3), "{took:?}");
}

#[test]
fn an_empty_part_and_an_empty_form_are_whole() {
    assert_eq!(
        parse(TYPE, &one_part(FILE, ""), 7),
        Ok(vec![("f".to_owned(), file("a"), Vec::new())])
    );
    assert_eq!(parse(TYPE, b"--XX--", 99), Ok(Vec::new()));
    assert_eq!(parse(TYPE, b"--XX--\r\n", 1), Ok(Vec::new()));
}

#[test]
fn every_truncation_is_incomplete() {
    let body = one_part(FILE, "some bytes");
    let whole = body.len() - "\r\n".len();
    for end in 0..whole {
        assert_eq!(
            parse(TYPE, &body[..end], 5),
            Err(MultipartError::Incomplete),
            "{end}"
        );
    }
    for end in whole..=body.len() {
        assert!(parse(TYPE, &body[..end], 5).is_ok(), "{end}");
    }
}

#[test]
fn malformed_bodies_are_refused() {
    let flood = format!("{FILE}\r\n{}", "X-A: b\r\n".repeat(4000));
    let endless = format!("{FILE}\r\nX-A: {}", "b".repeat(20_000));
    for head in [
        "",
        "Content-Type: image/png",
        "Content-Disposition: attachment; filename=\"a\"",
        "Content-Disposition: form-data; filename=\"a\"",
        "Content-Disposition: form-data; name=\"f\"; filename=\"a",
        &format!("{FILE}\r\n{FILE}"),
        &format!("{FILE}\r\nno colon"),
        &format!("{FILE}\r\nContent-Type: Multipart/mixed; boundary=YY"),
        &format!("{FILE}\r\nContent-Transfer-Encoding: base64"),
        flood.trim_end(),
        &endless,
    ] {
        let result = parse(TYPE, &one_part(head, "x"), 1000);
        assert!(
            matches!(result, Err(MultipartError::Malformed(_))),
            "{head:.60}: {result:?}"
        );
    }
    for body in [
        &b"--XXtail\r\n\r\n"[..],
        b"--XX--garbage",
        b"--XX\n\r\n\r\n",
    ] {
        let result = parse(TYPE, body, 3);
        assert!(
            matches!(result, Err(MultipartError::Malformed(_))),
            "{result:?}"
        );
    }
}

#[test]
fn hostile_filenames_are_refused_or_cut() {
    let named = |parameter: &str| {
        let head = format!("Content-Disposition: form-data; name=\"f\"; {parameter}");
        parse(TYPE, &one_part(&head, "x"), 64).map(|parts| parts[0].1.clone())
    };
    assert_eq!(named("filename=\"\""), Ok(PartFilename::Empty));
    assert_eq!(named("filename=\"../../x\""), Ok(file("x")));
    assert_eq!(
        named("filename=\"a\"; filename*=UTF-8''%e7%8c%ab"),
        Ok(file("猫"))
    );
    assert_eq!(named("filename=\"猫\""), Ok(file("猫")));
    for bad in [
        "filename*=UTF-8''a%00b".to_owned(),
        "filename*=UTF-8''a%0d%0ab".to_owned(),
        "filename=\"dir/\"".to_owned(),
        format!("filename=\"{}\"", "x".repeat(1025)),
    ] {
        let result = named(&bad);
        assert!(
            matches!(result, Err(MultipartError::InvalidFilename(_))),
            "{bad:.60}: {result:?}"
        );
    }
    assert!(matches!(
        named("filename=\"a\0b\""),
        Err(MultipartError::Malformed(_))
    ));
    let latin1 =
        b"--XX\r\nContent-Disposition: form-data; name=\"f\"; filename=\"\xe9\"\r\n\r\nx\r\n--XX--";
    assert!(matches!(
        parse(TYPE, latin1, 9),
        Err(MultipartError::Malformed(_))
    ));
}

#[test]
fn what_is_no_file_is_bounded() {
    let flood = vec![b'x'; 2 * MAX_OVERHEAD_BYTES];
    assert!(matches!(
        parse(TYPE, &flood, 8192),
        Err(MultipartError::Malformed(_))
    ));
    let mut body = one_part(FILE, "x");
    body.extend_from_slice(&flood);
    assert!(matches!(
        parse(TYPE, &body, 8192),
        Err(MultipartError::Malformed(_))
    ));
    let data = "y".repeat(2 * MAX_OVERHEAD_BYTES);
    assert!(parse(TYPE, &one_part(FILE, &data), 8192).is_ok());
}

#[test]
fn the_boundary_is_read_from_the_content_type() {
    for (content_type, boundary) in [
        ("multipart/form-data; boundary=abc", Some("abc")),
        (
            "multipart/form-data;charset=utf-8;BOUNDARY=\"a b\"",
            Some("a b"),
        ),
        (
            "multipart/form-data; boundary=----=_Part_0_12.34",
            Some("----=_Part_0_12.34"),
        ),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", None),
        ("multipart/form-data; boundary=\"\"", None),
        ("multipart/form-data; boundary=\"abc", None),
    ] {
        assert_eq!(
            boundary_of(content_type).as_deref(),
            boundary,
            "{content_type}"
        );
    }
    let long = format!("multipart/form-data; boundary={}", "b".repeat(71));
    assert_eq!(boundary_of(&long), None);
}
