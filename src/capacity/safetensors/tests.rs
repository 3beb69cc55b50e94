use super::*;

/// A file with this header, and so many bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

fn read_file(bytes: &[u8]) -> Result<Header, Fault> {
    read(&mut &*bytes, bytes.len() as u64)
}

fn fault_of(header: &str, data: usize) -> Fault {
    read_file(&file(header, data)).expect_err("it is refused")
}

const TENSOR: &str = r#"{"t":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}}"#;

#[test]
fn tensors_are_counted_by_type_in_any_order() {
    let header = r#"{"b":{"dtype":"F4","shape":[3,2],"data_offsets":[12,15]},
        "__metadata__":{"format":"pt","a \" quote":"{\\"},
        "c":{"data_offsets":[15,15],"shape":[0,7],"dtype":"I64"},
        "a":{"dtype":"BF16","shape":[],"data_offsets":[0,2]},
        "d":{"dtype":"BF16","shape":[5],"data_offsets":[2,12]}}   "#;
    let read = read_file(&file(header, 15)).unwrap();
    assert_eq!((read.tensors, read.bytes), (4, 15));
    assert_eq!(read.data_offset, 8 + header.len() as u64);
    assert_eq!(read.bytes_by_dtype, [(Dtype::F4, 3), (Dtype::BF16, 12), (Dtype::I64, 0)].into());
    assert_eq!(read_file(&file("{}", 0)).unwrap().tensors, 0);
    assert_eq!(read_file(&file(r#"{"__metadata__":null}"#, 0)).unwrap().tensors, 0);
}

#[test]
fn a_file_is_as_long_as_its_header_says() {
    assert!(read_file(&file(TENSOR, 12)).is_ok());
    assert_eq!(fault_of(TENSOR, 11), Fault::Truncated);
    assert_eq!(fault_of(TENSOR, 13), Fault::TooLong);
    let whole = file(&format!("{TENSOR}   "), 12);
    for end in 0..whole.len() {
        assert_eq!(read_file(&whole[..end]), Err(Fault::Truncated), "{end}");
        if end < whole.len() - 12 {
            assert_eq!(read(&mut &whole[..end], whole.len() as u64), Err(Fault::Truncated), "{end}");
        }
    }
}

#[test]
fn a_headers_length_is_refused_before_it_is_read() {
    for length in [0, 1, limits::SAFETENSORS_HEADER_BYTES_MAX + 1, u64::MAX] {
        assert_eq!(read(&mut length.to_le_bytes().as_slice(), u64::MAX), Err(Fault::HeaderLength));
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        let header = format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#);
        fault_of(&header, 12)
    };
    assert_eq!(tensor("F16", "[2,4]", "[0,12]"), Fault::Shape);
    assert_eq!(tensor("F4", "[5]", "[0,2]"), Fault::Shape);
    assert_eq!(tensor("U8", "[18446744073709551615,2]", "[0,12]"), Fault::Shape);
    assert_eq!(tensor("U64", "[4611686018427387904]", "[0,12]"), Fault::Shape);
    assert_eq!(tensor("F16", "[2,3]", "[12,0]"), Fault::Offsets);
    assert_eq!(tensor("F16", "[2]", "[8,12]"), Fault::Offsets);
    assert_eq!(tensor("Q4_K", "[2]", "[0,4]"), Fault::Dtype);
    for (dtype, shape, offsets) in
        [("U8", "[-1]", "[0,1]"), ("U8", "[1.5]", "[0,1]"), ("U8", "[1]", "[0,1,2]"), ("U8", "{}", "[0,1]")]
    {
        assert_eq!(tensor(dtype, shape, offsets), Fault::Json);
    }
    let two = r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},
        "b":{"dtype":"U8","shape":[8],"data_offsets":[4,12]}}"#;
    assert_eq!(fault_of(two, 12), Fault::Offsets);
}

#[test]
fn what_is_no_such_json_is_refused() {
    for header in ["[]", "{} {}", "{\"a\":1}", "{,}", "nonsense", r#"{"__metadata__":{"a":[]}}"#, "{\"a"] {
        assert_eq!(fault_of(header, 0), Fault::Json, "{header}");
    }
    assert_eq!(fault_of(&"[".repeat(5000), 0), Fault::Json);
}

#[test]
fn a_text_is_bounded_whatever_it_holds() {
    let header = |text: &str| format!(r#"{{"__metadata__":{{"a":"{text}"}}}}"#);
    let max = limits::SAFETENSORS_TEXT_BYTES_MAX;
    assert!(read_file(&file(&header(&r#"\""#.repeat(max / 2)), 0)).is_ok());
    assert_eq!(fault_of(&header(&r#"\""#.repeat(max / 2 + 1)), 0), Fault::Text);
    assert_eq!(fault_of(&header(&"x".repeat(max + 1)), 0), Fault::Text);
}

#[test]
fn a_disk_that_fails_is_not_a_file_that_ends() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }
    let whole = file(TENSOR, 12);
    for end in [0, 20] {
        let fault = read(&mut whole[..end].chain(Broken), whole.len() as u64).unwrap_err();
        assert_eq!(fault, Fault::Io(io::ErrorKind::PermissionDenied));
    }
}

#[test]
fn each_type_is_known_by_its_name() {
    for dtype in [Dtype::BOOL, Dtype::F8_E4M3, Dtype::U64] {
        assert_eq!(Dtype::named(dtype.name()), Some(dtype));
    }
}
