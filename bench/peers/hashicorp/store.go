package main

import (
	"encoding/binary"
	"encoding/gob"
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

// store is the state machine: a map behind a lock.
type store struct {
	mu     sync.RWMutex
	values map[string][]byte
}

func newStore() *store { return &store{values: map[string][]byte{}} }

func (s *store) get(key string) ([]byte, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	value, found := s.values[key]
	return value, found
}

// encodePut is the length of the key, the key, the value.
func encodePut(key string, value []byte) []byte {
	data := binary.AppendUvarint(make([]byte, 0, binary.MaxVarintLen64+len(key)+len(value)), uint64(len(key)))
	return append(append(data, key...), value...)
}

func decodePut(data []byte) (string, []byte) {
	length, used := binary.Uvarint(data)
	end := used + int(length)
	return string(data[used:end]), data[end:]
}

func (s *store) Apply(entry *raft.Log) interface{} {
	key, value := decodePut(entry.Data)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[key] = value
	return nil
}

func (s *store) Snapshot() (raft.FSMSnapshot, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	copied := make(map[string][]byte, len(s.values))
	for key, value := range s.values {
		copied[key] = value
	}
	return &snapshot{copied}, nil
}

func (s *store) Restore(source io.ReadCloser) error {
	defer source.Close()
	values := map[string][]byte{}
	if err := gob.NewDecoder(source).Decode(&values); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values = values
	return nil
}

type snapshot struct{ values map[string][]byte }

func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if err := gob.NewEncoder(sink).Encode(s.values); err != nil {
		sink.Cancel()
		return err
	}
	return sink.Close()
}

func (s *snapshot) Release() {}
