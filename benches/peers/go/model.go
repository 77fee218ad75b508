// Models and their sessions.
package main

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	ort "github.com/yalue/onnxruntime_go"
	"github.com/zeebo/blake3"
)

type model struct {
	index           int
	id, version     string
	idBytes         []byte
	session         *ort.DynamicAdvancedSession
	input, output   string
	inTail, outTail ort.Shape
	inLen, outLen   int
}

func loadModels(c config) (map[string]*model, error) {
	ort.SetSharedLibraryPath(c.ortLibrary)
	if err := ort.InitializeEnvironment(ort.WithLogLevelError()); err != nil {
		return nil, err
	}
	models := make(map[string]*model, len(c.modelIDs))
	for i, id := range c.modelIDs {
		m, err := loadModel(filepath.Join(c.models, id+".onnx"))
		if err != nil {
			return nil, fmt.Errorf("model %s: %w", id, err)
		}
		m.index, m.id, m.idBytes = i, id, []byte(id)
		models[id] = m
	}
	return models, nil
}

func loadModel(path string) (*model, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	inputs, outputs, err := ort.GetInputOutputInfoWithONNXData(file)
	if err != nil {
		return nil, err
	}
	if len(inputs) != 1 {
		return nil, fmt.Errorf("it has %d inputs, not one", len(inputs))
	}
	hash := blake3.Sum256(file)
	m := &model{version: hex.EncodeToString(hash[:8]), input: inputs[0].Name, output: outputs[0].Name}
	if m.inTail, m.inLen, err = tail(inputs[0]); err != nil {
		return nil, err
	}
	if m.outTail, m.outLen, err = tail(outputs[0]); err != nil {
		return nil, err
	}
	options, err := sessionOptions()
	if err != nil {
		return nil, err
	}
	defer func() { _ = options.Destroy() }()
	m.session, err = ort.NewDynamicAdvancedSessionWithONNXData(file, []string{m.input}, []string{m.output}, options)
	return m, err
}

// tail is a tensor's shape behind the batch's axis.
func tail(info ort.InputOutputInfo) (ort.Shape, int, error) {
	if info.DataType != ort.TensorElementDataTypeFloat || len(info.Dimensions) < 2 || info.Dimensions[0] > 0 {
		return nil, 0, fmt.Errorf("%s is no f32 [batch, ...]: %v", info.Name, &info)
	}
	rest, n := info.Dimensions[1:].Clone(), 1
	for _, d := range rest {
		if d < 1 {
			return nil, 0, fmt.Errorf("%s has an axis of any length: %v", info.Name, &info)
		}
		n *= int(d)
	}
	return rest, n, nil
}

func sessionOptions() (*ort.SessionOptions, error) {
	o, err := ort.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	for _, set := range []func() error{
		func() error { return o.SetIntraOpNumThreads(1) },
		func() error { return o.SetInterOpNumThreads(1) },
		func() error { return o.SetExecutionMode(ort.ExecutionModeSequential) },
		func() error { return o.SetGraphOptimizationLevel(ort.GraphOptimizationLevelEnableAll) },
	} {
		if err := set(); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// slot is one lane's place to run one model: memory for a full batch, and a binding for each number of rows it has met.
type slot struct {
	m        *model
	in, out  []float32
	bindings []*ort.IoBinding
}

func newSlot(m *model, rows int) *slot {
	return &slot{
		m:        m,
		in:       make([]float32, rows*m.inLen),
		out:      make([]float32, rows*m.outLen),
		bindings: make([]*ort.IoBinding, rows+1),
	}
}

func (s *slot) row(i int) []float32    { return s.in[i*s.m.inLen : (i+1)*s.m.inLen] }
func (s *slot) result(i int) []float32 { return s.out[i*s.m.outLen : (i+1)*s.m.outLen] }

func (s *slot) run(rows int) error {
	if s.bindings[rows] == nil {
		binding, err := s.bind(rows)
		if err != nil {
			return err
		}
		s.bindings[rows] = binding
	}
	return s.m.session.RunWithBinding(s.bindings[rows])
}

func (s *slot) bind(rows int) (*ort.IoBinding, error) {
	in, err := ort.NewTensor(append(ort.NewShape(int64(rows)), s.m.inTail...), s.in)
	if err != nil {
		return nil, err
	}
	out, err := ort.NewTensor(append(ort.NewShape(int64(rows)), s.m.outTail...), s.out)
	if err != nil {
		return nil, err
	}
	binding, err := s.m.session.CreateIoBinding()
	if err != nil {
		return nil, err
	}
	if err := binding.BindInput(s.m.input, in); err != nil {
		return nil, err
	}
	return binding, binding.BindOutput(s.m.output, out)
}
