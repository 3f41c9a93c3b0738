//! The contract breaks nothing of what was released.

mod rules;

use dssd_proto::FILE_DESCRIPTOR_SET;
use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorSet, MethodDescriptorProto, OneofDescriptorProto, ServiceDescriptorProto,
    field_descriptor_proto::{Label, Type},
};
use rules::breakages;
use std::{fs, path::Path};

fn present() -> FileDescriptorSet {
    FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the build script wrote it")
}

#[test]
fn every_release_is_kept() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("released");
    let mut releases = 0;
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        let bytes = fs::read(&path).expect("it can be read");
        let released = FileDescriptorSet::decode(bytes.as_slice()).expect("it is a descriptor set");
        assert!(
            !released.file.is_empty(),
            "{} holds nothing",
            path.display()
        );
        let broken = breakages(&released, &present());
        assert!(
            broken.is_empty(),
            "{}:\n{}",
            path.display(),
            broken.join("\n")
        );
        releases += 1;
    }
    assert!(releases > 0, "no release is kept");
}

/// The present contract after a change, and what the rules say of it.
fn after(change: impl FnOnce(&mut FileDescriptorSet)) -> Vec<String> {
    let mut changed = present();
    change(&mut changed);
    breakages(&present(), &changed)
}

fn message<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut DescriptorProto {
    let mut messages = set.file.iter_mut().flat_map(|file| &mut file.message_type);
    messages
        .find(|message| message.name() == name)
        .expect("the message is there")
}

fn field<'a>(
    set: &'a mut FileDescriptorSet,
    owner: &str,
    name: &str,
) -> &'a mut FieldDescriptorProto {
    let mut fields = message(set, owner).field.iter_mut();
    fields
        .find(|field| field.name() == name)
        .expect("the field is there")
}

fn enumeration<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut EnumDescriptorProto {
    let mut enums = set.file.iter_mut().flat_map(|file| &mut file.enum_type);
    enums
        .find(|values| values.name() == name)
        .expect("the enum is there")
}

fn service<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut ServiceDescriptorProto {
    let mut services = set.file.iter_mut().flat_map(|file| &mut file.service);
    services
        .find(|service| service.name() == name)
        .expect("the service is there")
}

fn method<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut MethodDescriptorProto {
    let mut methods = service(set, "Generation").method.iter_mut();
    methods
        .find(|method| method.name() == name)
        .expect("the method is there")
}

#[test]
fn a_field_that_is_removed_breaks() {
    let broken = after(|set| {
        message(set, "Resume")
            .field
            .retain(|field| field.name() != "seed")
    });
    assert_eq!(broken, ["field 2 of dssd.v1.Resume is gone"]);
}

#[test]
fn a_field_with_another_number_breaks() {
    let broken = after(|set| field(set, "Resume", "seed").number = Some(9));
    assert_eq!(broken, ["field 2 of dssd.v1.Resume is gone"]);
}

#[test]
fn fields_that_swap_numbers_break() {
    let broken = after(|set| {
        field(set, "FinishInfo", "prompt_token_count").number = Some(3);
        field(set, "FinishInfo", "generated_token_count").number = Some(2);
    });
    assert!(
        broken
            .iter()
            .any(|line| line.starts_with("field 2 of dssd.v1.FinishInfo: name"))
    );
    assert!(
        broken
            .iter()
            .any(|line| line.starts_with("field 3 of dssd.v1.FinishInfo: name"))
    );
}

#[test]
fn a_field_with_another_name_breaks() {
    let broken = after(|set| field(set, "Resume", "seed").name = Some("key".to_owned()));
    assert!(broken.contains(&"field 2 of dssd.v1.Resume: name was `seed`, is `key`".to_owned()));
}

#[test]
fn a_field_with_another_json_name_breaks() {
    let broken = after(|set| field(set, "Resume", "token_ids").json_name = Some("ids".to_owned()));
    assert_eq!(
        broken,
        ["field 1 of dssd.v1.Resume: JSON name was `tokenIds`, is `ids`"]
    );
}

#[test]
fn a_json_name_that_is_left_out_is_the_camel_case_one() {
    let broken = after(|set| field(set, "Resume", "token_ids").json_name = None);
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn a_field_of_another_type_breaks() {
    let broken = after(|set| field(set, "Resume", "seed").set_type(Type::Fixed64));
    assert_eq!(
        broken,
        ["field 2 of dssd.v1.Resume: type was `TYPE_UINT64`, is `TYPE_FIXED64`"]
    );
    let broken = after(|set| {
        field(set, "GenerateRequest", "resume").type_name = Some(".dssd.v1.TokenIds".to_owned());
    });
    let type_line = "type was `TYPE_MESSAGE .dssd.v1.Resume`, is `TYPE_MESSAGE .dssd.v1.TokenIds`";
    assert_eq!(
        broken,
        [format!("field 21 of dssd.v1.GenerateRequest: {type_line}")]
    );
}

#[test]
fn a_field_that_becomes_repeated_breaks() {
    let broken = after(|set| field(set, "Resume", "seed").set_label(Label::Repeated));
    assert_eq!(
        broken,
        ["field 2 of dssd.v1.Resume: repeated was `false`, is `true`"]
    );
}

#[test]
fn a_field_that_is_no_longer_optional_breaks() {
    let broken = after(|set| field(set, "GenerateRequest", "seed").proto3_optional = None);
    assert!(
        broken.contains(
            &"field 8 of dssd.v1.GenerateRequest: optional was `true`, is `false`".to_owned()
        ),
        "{broken:?}"
    );
}

#[test]
fn a_field_that_leaves_or_enters_a_oneof_breaks() {
    let broken = after(|set| field(set, "GenerateRequest", "text").oneof_index = None);
    assert_eq!(
        broken,
        ["field 2 of dssd.v1.GenerateRequest: oneof was `prompt`, is ``"]
    );
    let broken = after(|set| {
        let resume = message(set, "Resume");
        resume.oneof_decl.push(OneofDescriptorProto {
            name: Some("either".to_owned()),
            ..OneofDescriptorProto::default()
        });
        field(set, "Resume", "seed").oneof_index = Some(0);
    });
    assert_eq!(
        broken,
        ["field 2 of dssd.v1.Resume: oneof was ``, is `either`"]
    );
}

#[test]
fn a_field_of_a_message_in_a_message_breaks_too() {
    let broken = after(|set| {
        let entries = &mut message(set, "GenerateRequest").nested_type;
        entries[0].field[1].set_type(Type::Double);
    });
    let entry = "field 2 of dssd.v1.GenerateRequest.LogitBiasEntry";
    assert_eq!(
        broken,
        [format!("{entry}: type was `TYPE_FLOAT`, is `TYPE_DOUBLE`")]
    );
}

#[test]
fn a_message_that_is_removed_breaks() {
    let broken = after(|set| {
        for file in &mut set.file {
            file.message_type
                .retain(|message| message.name() != "Resume");
        }
    });
    assert!(
        broken.contains(&"message dssd.v1.Resume is gone".to_owned()),
        "{broken:?}"
    );
}

#[test]
fn an_enum_value_that_is_removed_or_renamed_breaks() {
    let broken = after(|set| {
        enumeration(set, "FinishReason").value.pop();
    });
    assert_eq!(broken, ["value 3 of dssd.v1.FinishReason is gone"]);
    let broken = after(|set| {
        enumeration(set, "FinishReason").value[3].name = Some("FINISH_REASON_ENDED".to_owned());
    });
    let name_line = "name was `FINISH_REASON_ABORTED`, is `FINISH_REASON_ENDED`";
    assert_eq!(
        broken,
        [format!("value 3 of dssd.v1.FinishReason: {name_line}")]
    );
}

#[test]
fn an_enum_that_is_removed_breaks() {
    let broken = after(|set| {
        for file in &mut set.file {
            file.enum_type
                .retain(|values| values.name() != "FinishReason");
        }
    });
    assert!(
        broken.contains(&"enum dssd.v1.FinishReason is gone".to_owned()),
        "{broken:?}"
    );
}

#[test]
fn a_method_that_is_removed_breaks() {
    let broken = after(|set| {
        service(set, "Generation")
            .method
            .retain(|method| method.name() != "Score")
    });
    assert_eq!(broken, ["dssd.v1.Generation/Score is gone"]);
}

#[test]
fn a_service_that_is_removed_breaks() {
    let broken = after(|set| {
        for file in &mut set.file {
            file.service.retain(|service| service.name() != "Drafting");
        }
    });
    assert!(
        broken.contains(&"service dssd.v1.Drafting is gone".to_owned()),
        "{broken:?}"
    );
}

#[test]
fn a_method_with_other_types_or_streams_breaks() {
    let name = "dssd.v1.Generation/Generate";
    let other = || Some(".dssd.v1.AbortRequest".to_owned());
    let broken = after(|set| method(set, "Generate").input_type = other());
    assert_eq!(
        broken,
        [format!(
            "{name}: request was `.dssd.v1.GenerateRequest`, is `.dssd.v1.AbortRequest`"
        )]
    );
    let broken = after(|set| method(set, "Generate").output_type = other());
    assert_eq!(
        broken,
        [format!(
            "{name}: response was `.dssd.v1.GenerateResponse`, is `.dssd.v1.AbortRequest`"
        )]
    );
    let broken = after(|set| method(set, "Generate").client_streaming = Some(true));
    assert_eq!(
        broken,
        [format!("{name}: client streaming was `false`, is `true`")]
    );
    let broken = after(|set| method(set, "Generate").server_streaming = Some(true));
    assert_eq!(
        broken,
        [format!("{name}: server streaming was `false`, is `true`")]
    );
}

#[test]
fn what_is_added_breaks_nothing() {
    let broken = after(|set| {
        let mut added = field(set, "Resume", "seed").clone();
        added.name = Some("more".to_owned());
        added.number = Some(100);
        message(set, "Resume").field.push(added);
        enumeration(set, "FinishReason")
            .value
            .push(EnumValueDescriptorProto {
                name: Some("FINISH_REASON_MORE".to_owned()),
                number: Some(100),
                ..EnumValueDescriptorProto::default()
            });
        let mut call = method(set, "Generate").clone();
        call.name = Some("GenerateMore".to_owned());
        service(set, "Generation").method.push(call);
    });
    assert!(broken.is_empty(), "{broken:?}");
}
