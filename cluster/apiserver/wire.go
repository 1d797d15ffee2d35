package apiserver

import "encoding/binary"

// protoMagic begins every stored or sent protobuf object; runtime.Unknown follows.
var protoMagic = []byte{'k', '8', 's', 0}

// protoHead is the magic number and Unknown's field 1, the TypeMeta.
func protoHead(apiVersion, kind string) []byte {
	var meta []byte
	meta = appendBytes(meta, 1, []byte(apiVersion))
	meta = appendBytes(meta, 2, []byte(kind))
	return appendBytes(append([]byte(nil), protoMagic...), 1, meta)
}

// appendUnknown appends head and raw as the whole encoding of one object.
func appendUnknown(dst, head, raw []byte) []byte {
	dst = append(dst, head...)
	dst = appendBytes(dst, 2, raw)
	// contentEncoding and contentType are not nullable in the schema: upstream
	// always writes them, and other encoders' readers may rely on it.
	return append(dst, 3<<3|2, 0, 4<<3|2, 0)
}

func appendBytes(dst []byte, field int, b []byte) []byte {
	dst = append(dst, byte(field<<3|2))
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

func appendVarint(dst []byte, field int, v uint64) []byte {
	dst = append(dst, byte(field<<3))
	return binary.AppendUvarint(dst, v)
}

// listMeta encodes metav1.ListMeta.
func listMeta(rev, cont string, remaining *int64) []byte {
	b := appendBytes(nil, 1, nil) // selfLink
	b = appendBytes(b, 2, []byte(rev))
	b = appendBytes(b, 3, []byte(cont))
	if remaining != nil {
		b = appendVarint(b, 4, uint64(*remaining))
	}
	return b
}
