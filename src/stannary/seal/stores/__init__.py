"""Where sealed objects lie: folders, HTTP hosts and buckets, none of them believed; and a server for one of them."""
