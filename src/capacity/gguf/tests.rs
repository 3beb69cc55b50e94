use std::io;

use proptest::prelude::*;

use super::writer::Writer;
use super::*;

fn header_of(writer: &Writer) -> Result<Header, Fault> {
    read(&mut writer.header().as_slice())
}

fn fault_of(writer: &Writer) -> Fault {
    header_of(writer).expect_err("it is refused")
}

fn label(name: &str) -> Label {
    Label::of(name.as_bytes())
}

/// A header with these counts and nothing else.
fn counts(tensors: u64, entries: u64) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(entries.to_le_bytes());
    bytes
}

#[test]
fn a_model_says_what_it_is() {
    let model = Writer::model("llama")
        .number("llama.block_count", 30)
        .float("llama.rope.freq_base", 0.5)
        .flag("tokenizer.ggml.add_bos_token", true)
        .numbers("llama.attention.head_count_kv", &[3, 0, 3])
        .flags("llama.pattern", &[true, false])
        .vocabulary(10_000)
        .tensor("token_embd.weight", TensorType::Q4_1, &[64, 10_000])
        .tensor("output_norm.weight", TensorType::F32, &[65])
        .tensor("blk.0.ffn_norm.weight", TensorType::F32, &[64]);
    let header = header_of(&model).unwrap();
    assert_eq!((header.version, header.alignment), (3, 32));
    assert_eq!(header.text("general.architecture"), Some("llama"));
    assert_eq!(header.number("llama.block_count"), Some(30));
    assert_eq!(header.float("llama.rope.freq_base"), Some(0.5));
    assert_eq!(header.flag("tokenizer.ggml.add_bos_token"), Some(true));
    assert_eq!(header.numbers("llama.attention.head_count_kv"), Some(vec![3, 0, 3]));
    assert_eq!(header.numbers("llama.pattern"), Some(vec![1, 0]));
    assert_eq!(header.array_len("tokenizer.ggml.tokens"), Some(10_000));
    assert_eq!(header.numbers("tokenizer.ggml.tokens"), None);
    assert_eq!(header.numbers("llama.block_count"), None);
    assert_eq!(header.array_len("llama.block_count"), None);
    assert_eq!(header.number("general.architecture"), None);
    assert_eq!(header.text("absent"), None);
    let offsets: Vec<u64> = header.tensors.iter().map(|tensor| tensor.offset).collect();
    assert_eq!(offsets, [0, 400_000, 400_288]);
    assert_eq!(header.read_bytes, model.header().len() as u64);
    assert_eq!(header.data_offset, header.read_bytes.next_multiple_of(32));
    assert_eq!(header.file_bytes(), header.data_offset + 400_288 + 256);
}

#[test]
fn whole_numbers_are_read_in_every_width_and_none_below_zero() {
    let header = header_of(
        &Writer::new()
            .entry("u8", 0, &[200])
            .entry("i8", 1, &[0xff])
            .entry("u16", 2, &[1, 2])
            .entry("i16", 3, &[1, 2])
            .entry("i32", 5, &[1, 0, 0, 0])
            .entry("u64", 10, &[0xff; 8])
            .entry("i64", 11, &[0xff; 8])
            .entry("f64", 12, &1.5_f64.to_le_bytes())
            .array("mixed", 5, &[[1, 0, 0, 0], [0xff; 4]])
            .array("floats", 6, &[[0; 4]; 3]),
    )
    .unwrap();
    let number = |key| header.number(key);
    assert_eq!([number("u8"), number("u16"), number("i16")], [Some(200), Some(513), Some(513)]);
    assert_eq!([number("i32"), number("u64")], [Some(1), Some(u64::MAX)]);
    assert_eq!([number("i8"), number("i64"), number("f64")], [None; 3]);
    assert_eq!(header.float("f64"), Some(1.5));
    assert_eq!((header.numbers("mixed"), header.array_len("mixed")), (None, Some(2)));
    assert_eq!((header.numbers("floats"), header.array_len("floats")), (None, Some(3)));
}

#[test]
fn what_is_too_long_to_be_kept_is_skipped() {
    let long = "x".repeat(limits::GGUF_TEXT_KEPT_BYTES_MAX as usize + 1);
    let many = vec![7; limits::GGUF_ARRAY_KEPT_MAX as usize + 1];
    let header = header_of(
        &Writer::new()
            .text("template", &long)
            .text("kept", &long[1..])
            .entry("latin", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xe9])
            .numbers("types", &many)
            .numbers("layers", &many[1..])
            .number("after", 1),
    )
    .unwrap();
    assert_eq!((header.text("template"), header.text("latin")), (None, None));
    assert_eq!(header.text("kept"), Some(&long[1..]));
    assert_eq!((header.numbers("types"), header.array_len("types")), (None, Some(8193)));
    assert_eq!(header.numbers("layers").map(|numbers| numbers.len()), Some(8192));
    assert_eq!(header.number("after"), Some(1));
}

#[test]
fn versions_2_and_3_are_read_and_others_named() {
    assert_eq!(header_of(&Writer::new().version(2)).unwrap().version, 2);
    for (version, fault) in [
        (0, Fault::Version(0)),
        (1, Fault::Version(1)),
        (4, Fault::Version(4)),
        (2_u32.swap_bytes(), Fault::BigEndian),
        (3_u32.swap_bytes(), Fault::BigEndian),
        (4_u32.swap_bytes(), Fault::Version(0x0400_0000)),
    ] {
        assert_eq!(fault_of(&Writer::new().version(version)), fault);
    }
    assert_eq!(read(&mut b"<!doctype html>".as_slice()), Err(Fault::NotGguf));
    assert_eq!(read(&mut b"FUGG\0\0\0\x03".as_slice()), Err(Fault::NotGguf));
}

#[test]
fn a_header_that_is_cut_anywhere_is_truncated() {
    let whole = Writer::model("llama")
        .vocabulary(3)
        .numbers("heads", &[1, 2])
        .tensor("a", TensorType::F16, &[2, 2])
        .header();
    for end in 0..whole.len() {
        assert_eq!(read(&mut &whole[..end]), Err(Fault::Truncated), "{end} of {}", whole.len());
    }
    assert!(read(&mut whole.as_slice()).is_ok());
}

#[test]
fn a_disk_that_fails_is_not_a_file_that_ends() {
    struct Broken;
    impl io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }
    let whole = Writer::new().vocabulary(9).header();
    for end in [0, 30, whole.len() - 1] {
        let fault = read(&mut io::Read::chain(&whole[..end], Broken)).unwrap_err();
        assert_eq!(fault, Fault::Io(io::ErrorKind::PermissionDenied));
    }
}

#[test]
fn counts_and_lengths_are_refused_before_anything_is_made_of_them() {
    let large = |part| Err(Fault::TooLarge(part));
    assert_eq!(read(&mut counts(u64::MAX, 0).as_slice()), large(Part::Tensors));
    assert_eq!(read(&mut counts(0, u64::MAX).as_slice()), large(Part::Entries));
    assert_eq!(read(&mut counts(0, 4096).as_slice()), Err(Fault::Truncated));
    let key = [counts(0, 1), 65_536_u64.to_le_bytes().to_vec()].concat();
    assert_eq!(read(&mut key.as_slice()), large(Part::Key));
    for length in [u64::MAX, 1 << 40] {
        let text = Writer::new().entry("a", 8, &length.to_le_bytes());
        assert_eq!(header_of(&text), large(Part::Header));
        for kind in [0_u32, 4, 8, 12] {
            let array =
                Writer::new().entry("a", 9, &[&kind.to_le_bytes()[..], &length.to_le_bytes()].concat());
            let fault = if kind == 8 { Fault::Truncated } else { Fault::TooLarge(Part::Header) };
            assert_eq!(header_of(&array), Err(fault), "{kind}");
        }
    }
}

#[test]
fn what_is_kept_of_all_entries_is_bounded() {
    let layers = vec![0; limits::GGUF_ARRAY_KEPT_MAX as usize];
    let model = (0..200).fold(Writer::new(), |model, i| model.numbers(&format!("a{i}"), &layers));
    assert_eq!(fault_of(&model), Fault::TooLarge(Part::Kept));
}

#[test]
fn keys_are_there_once_and_their_values_of_known_types() {
    assert_eq!(fault_of(&Writer::new().number("", 1)), Fault::EmptyKey);
    let twice = Writer::new().number("a.b", 1).number("c", 1).text("a.b", "");
    assert_eq!(fault_of(&twice), Fault::DuplicateKey(label("a.b")));
    for number in [13, u32::MAX] {
        let fault = Fault::ValueType { key: label("k"), number };
        assert_eq!(fault_of(&Writer::new().entry("k", number, &[])), fault);
        assert_eq!(fault_of(&Writer::new().array::<[u8; 0]>("k", number, &[])), fault);
    }
    let nested = Writer::new().array::<[u8; 0]>("k", 9, &[]);
    assert_eq!(fault_of(&nested), Fault::ValueType { key: label("k"), number: 9 });
}

#[test]
fn the_alignment_is_a_power_of_two() {
    let model =
        Writer::new().alignment(64).tensor("a", TensorType::I8, &[1]).tensor("b", TensorType::I8, &[1]);
    let header = header_of(&model).unwrap();
    assert_eq!((header.alignment, header.tensors[1].offset), (64, 64));
    assert!(header.data_offset.is_multiple_of(64));
    assert_eq!(header_of(&Writer::new().alignment(1)).unwrap().alignment, 1);
    for wrong in [0, 24] {
        assert_eq!(fault_of(&Writer::new().number("general.alignment", wrong)), Fault::Alignment);
    }
    let wide = Writer::new().entry("general.alignment", 10, &32_u64.to_le_bytes());
    assert_eq!(fault_of(&wide), Fault::Alignment);
    assert_eq!(fault_of(&Writer::new().numbers("general.alignment", &[32])), Fault::Alignment);
}

#[test]
fn tensors_have_short_names_that_no_other_has() {
    let named = |name: &str| Writer::new().tensor(name, TensorType::F32, &[1]);
    assert_eq!(fault_of(&named(&"x".repeat(64))), Fault::TensorName);
    assert_eq!(header_of(&named(&"x".repeat(63))).unwrap().tensors[0].name.len(), 63);
    assert_eq!(fault_of(&named("x\0y")), Fault::TensorName);
    let mut latin = named("x").header();
    let at = latin.len() - (1 + 4 + 8 + 4 + 8);
    latin[at] = 0xe9;
    assert_eq!(read(&mut latin.as_slice()), Err(Fault::TensorName));
    let twice = named("b").tensor("a", TensorType::F32, &[1]).tensor("b", TensorType::F32, &[1]);
    assert_eq!(fault_of(&twice), Fault::DuplicateTensor(label("b")));
}

#[test]
fn shapes_are_what_ggml_can_count() {
    let shaped = |kind: TensorType, shape: &[u64]| {
        header_of(&Writer::new().raw_tensor("t", kind as u32, shape, 0))
            .map(|header| header.tensors[0].clone())
    };
    let scalar = shaped(TensorType::F32, &[]).unwrap();
    assert_eq!((scalar.shape, scalar.bytes), (vec![1], 4));
    let empty = shaped(TensorType::F32, &[3, 0, 1 << 62, 1 << 62]).unwrap();
    assert_eq!(empty.bytes, 0);
    assert_eq!(shaped(TensorType::Q8_0, &[64, 2, 3, 4]).unwrap().bytes, 2 * 2 * 3 * 4 * 34);
    let dimensions = Fault::Dimensions { tensor: label("t"), count: 5 };
    assert_eq!(shaped(TensorType::F32, &[1; 5]), Err(dimensions));
    assert_eq!(shaped(TensorType::Q8_0, &[16, 2]), Err(Fault::Row(label("t"))));
    for shape in [&[u64::MAX][..], &[0, 1 << 63], &[1 << 32, 1 << 31], &[1 << 40; 4], &[1 << 62, 2, 0]] {
        assert_eq!(shaped(TensorType::I8, shape), Err(Fault::Shape(label("t"))), "{shape:?}");
    }
    assert_eq!(shaped(TensorType::F64, &[1 << 62]), Err(Fault::Shape(label("t"))), "too many bytes");
}

#[test]
fn an_unknown_tensor_type_is_named_by_its_number() {
    for number in [4, 31, 38, 77, u32::MAX] {
        let model = Writer::new().raw_tensor("t", number, &[256], 0);
        assert_eq!(fault_of(&model), Fault::UnknownType { tensor: label("t"), number });
    }
}

#[test]
fn a_tensor_begins_where_the_one_before_it_ends() {
    let model = |bytes| Writer::new().raw_tensor("a", 0, &[16], bytes).tensor("b", TensorType::F32, &[1]);
    assert!(header_of(&model(64)).is_ok());
    for wrong in [0, 32, 96, 1 << 40] {
        assert_eq!(fault_of(&model(wrong)), Fault::Offset(label("b")), "{wrong}");
    }
}

#[test]
fn tensors_that_end_beyond_64_bits_are_refused() {
    // Three times 2^62 bytes are one file of a size that can be said, four times are not.
    let size = 1 << 62;
    let model = |count: u64| {
        let tensors = (0..count).map(|i| format!("t{i}"));
        tensors.fold(Writer::new(), |model, name| model.tensor(&name, TensorType::I8, &[size]))
    };
    assert_eq!(header_of(&model(3)).unwrap().tensors[2].offset, 2 * size);
    assert_eq!(fault_of(&model(4)), Fault::Overflow);
}

#[test]
fn a_file_without_tensors_ends_with_its_header() {
    let header = header_of(&Writer::model("llama")).unwrap();
    assert_eq!((header.data_offset, header.file_bytes()), (header.read_bytes, header.read_bytes));
}

fn any_tensor() -> impl Strategy<Value = (TensorType, Vec<u64>)> {
    let kind = proptest::sample::select(TensorType::ALL);
    (kind, 0_u64..5, proptest::collection::vec(1_u64..9, 0..4)).prop_map(|(kind, blocks, outer)| {
        let shape = [vec![blocks * kind.block()], outer].concat();
        (kind, shape)
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        version in 2_u32..4,
        alignment in (0_u32..13).prop_map(|bits| 1 << bits),
        words in proptest::collection::btree_map("[a-z.]{1,20}", ".{0,20}", 0..8),
        layers in proptest::collection::vec(any::<u32>(), 0..70),
        tokens in 0_usize..300,
        tensors in proptest::collection::vec(any_tensor(), 0..20),
    ) {
        let mut model = Writer::new().version(version).alignment(alignment).numbers("_layers", &layers);
        for (key, text) in &words {
            model = model.text(key, text);
        }
        model = model.vocabulary(tokens);
        for (i, (kind, shape)) in tensors.iter().enumerate() {
            model = model.tensor(&format!("t{i}"), *kind, shape);
        }
        let header = header_of(&model).unwrap();
        prop_assert_eq!((header.version, header.alignment), (version, alignment));
        prop_assert_eq!(header.read_bytes, model.header().len() as u64);
        for (key, text) in &words {
            prop_assert_eq!(header.text(key), Some(text.as_str()));
        }
        prop_assert_eq!(header.array_len("tokenizer.ggml.tokens"), Some(tokens as u64));
        let layers = layers.into_iter().map(u64::from).collect();
        prop_assert_eq!(header.numbers("_layers"), Some(layers));
        let read = header.tensors.iter().map(|tensor| (tensor.kind, tensor.shape.clone()));
        prop_assert_eq!(read.collect::<Vec<_>>(), tensors);
        let last = header.tensors.last().map_or(0, |tensor| tensor.offset + tensor.bytes);
        prop_assert_eq!(header.file_bytes(), header.data_offset + last);
    }
}
