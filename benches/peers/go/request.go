// A request out of its JSON.
package main

import (
	"bytes"
	"unicode/utf8"
)

// Why a record becomes a dead letter.
const (
	reasonNoModelID   = "missing_model_id"
	reasonNull        = "null_value"
	reasonType        = "unsupported_type"
	reasonUndecodable = "undecodable"
	reasonMismatch    = "model_id_mismatch"
	reasonUnknown     = "unknown_model"
	reasonShape       = "wrong_shape"
	reasonNotFinite   = "not_finite"
	reasonInference   = "inference_failed"
)

// request points into the record's value; the raw texts keep their quotes and escapes, and go into the result as they are.
type request struct {
	rawID, id         []byte
	rawTenant, tenant []byte
}

const (
	seenID = 1 << iota
	seenTenant
	seenModel
	seenInput
	seenMetadata
	seenTime
)

// decode reads value into req and its numbers into row; the reason is empty when all is well.
func decode(value []byte, modelID string, row []float32, req *request) string {
	if value == nil {
		return reasonNull
	}
	if !utf8.Valid(value) {
		return reasonUndecodable
	}
	s := scanner{b: value}
	var bodyModel []byte
	length, finite, seen := 0, true, 0
	once := func(bit int) bool {
		fresh := seen&bit == 0
		seen |= bit
		return fresh
	}
	ok := s.take('{') && s.members(func(key []byte) (ok bool) {
		switch string(key) {
		case "request_id":
			req.rawID, req.id, ok = s.checkedText()
			return ok && once(seenID) && len(req.id) > 0
		case "tenant_id":
			req.rawTenant, req.tenant, ok = s.checkedText()
			return ok && once(seenTenant) && len(req.tenant) > 0
		case "model_id":
			_, bodyModel, ok = s.checkedText()
			return ok && once(seenModel)
		case "input":
			length, finite, ok = s.floats(row)
			return ok && once(seenInput)
		case "inputs":
			return false
		case "metadata":
			return once(seenMetadata) && s.texts()
		case "enqueued_at":
			return once(seenTime) && s.skip(1)
		default:
			return s.skip(1)
		}
	})
	s.space()
	const needed = seenID | seenTenant | seenModel | seenInput
	switch {
	case !ok || s.i != len(value) || seen&needed != needed:
		return reasonUndecodable
	case !bytes.Equal(bodyModel, []byte(modelID)):
		return reasonMismatch
	case row == nil:
		return reasonUnknown
	case length != len(row):
		return reasonShape
	case !finite:
		return reasonNotFinite
	}
	return ""
}

// texts passes over metadata: null, or an object from text to text.
func (s *scanner) texts() bool {
	if s.take('{') {
		return s.members(func([]byte) bool {
			_, _, ok := s.checkedText()
			return ok
		})
	}
	return s.word("null")
}
