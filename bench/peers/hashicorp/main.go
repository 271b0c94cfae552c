// A key-value server on hashicorp/raft, for comparison: HTTP in front, BoltDB for the log, default settings.
//
//	PUT /key/{key}          replicated with Apply
//	GET /key/{key}          linearizable: VerifyLeader, then the map
//	GET /key/{key}?stale=1  the map at once
//	GET /leader             200 on the leader, 503 elsewhere
//
// Requests for the leader are refused by the others: the load generator goes to the leader.
package main

import (
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb"
)

const (
	applyTimeout     = 5 * time.Second
	transportTimeout = 10 * time.Second
	transportPool    = 3
	retainSnapshots  = 2
	cachedEntries    = 512
	maxBodyBytes     = 1 << 20
)

type server struct {
	raft  *raft.Raft
	store *store
}

func (s *server) key(w http.ResponseWriter, r *http.Request) {
	key := strings.TrimPrefix(r.URL.Path, "/key/")
	switch r.Method {
	case http.MethodPut, http.MethodPost:
		value, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if err := s.raft.Apply(encodePut(key, value), applyTimeout).Error(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	case http.MethodGet:
		if r.URL.RawQuery != "stale=1" {
			if err := s.raft.VerifyLeader().Error(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		value, found := s.store.get(key)
		if !found {
			http.NotFound(w, r)
			return
		}
		w.Write(value)
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

func (s *server) leader(w http.ResponseWriter, _ *http.Request) {
	if s.raft.State() != raft.Leader {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// members reads "a=host:port,b=host:port"; ids are names.
func members(text string) []raft.Server {
	var found []raft.Server
	for _, part := range strings.Split(text, ",") {
		id, address, _ := strings.Cut(part, "=")
		found = append(found, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(address)})
	}
	return found
}

func open(id, address, directory string, servers []raft.Server) (*server, error) {
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return nil, err
	}
	bolt, err := raftboltdb.NewBoltStore(filepath.Join(directory, "raft.db")) // syncs each transaction
	if err != nil {
		return nil, err
	}
	logs, err := raft.NewLogCache(cachedEntries, bolt)
	if err != nil {
		return nil, err
	}
	snapshots, err := raft.NewFileSnapshotStore(directory, retainSnapshots, os.Stderr)
	if err != nil {
		return nil, err
	}
	advertised, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, err
	}
	transport, err := raft.NewTCPTransport(address, advertised, transportPool, transportTimeout, os.Stderr)
	if err != nil {
		return nil, err
	}
	config := raft.DefaultConfig()
	config.LocalID = raft.ServerID(id)
	config.LogLevel = "WARN"
	store := newStore()
	node, err := raft.NewRaft(config, store, logs, bolt, snapshots, transport)
	if err != nil {
		return nil, err
	}
	// An error means that the data directory has run before, which is as good.
	node.BootstrapCluster(raft.Configuration{Servers: servers})
	return &server{node, store}, nil
}

func main() {
	id := flag.String("id", "", "this node's name")
	address := flag.String("raft", "", "host:port for the other nodes")
	listen := flag.String("http", "", "host:port for clients")
	directory := flag.String("dir", "", "directory of its data")
	peers := flag.String("peers", "", "all nodes: name=host:port,...")
	flag.Parse()
	s, err := open(*id, *address, *directory, members(*peers))
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/key/", s.key)
	http.HandleFunc("/leader", s.leader)
	log.Fatal(http.ListenAndServe(*listen, nil))
}
